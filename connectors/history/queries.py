"""The SQL that both databases understand: tables, searches in windows, what retention removes. Pure text.

Parameters are written `?`. A search looks at windows: so many rows by an index, newest first, of which the rest of the
conditions choose some. So each statement is bounded, whatever is searched for, and the next window begins where the
last one ended.
"""

from __future__ import annotations

from typing import Any

from connectors.history.attempts import LoggedAttempt, Place
from connectors.history.store import Wanted

SCHEMA_VERSION = 1

_RENAMED = {"partition": "log_partition", "offset": "log_offset"}  # words of SQL
COLUMNS = tuple(_RENAMED.get(name, name) for name in LoggedAttempt.__struct_fields__)
_KINDS = {
    "log_partition": "INTEGER NOT NULL",
    "subject": "TEXT",
    "attempt": "INTEGER NOT NULL",
    "status": "INTEGER NOT NULL",
} | dict.fromkeys(
    ("log_offset", "event_time_ms", "received_ms", "started_ms", "duration_us", "due_ms"), "BIGINT NOT NULL"
)
_PLACE = "started_ms, log_partition, log_offset"
NEWEST_FIRST = "ORDER BY started_ms DESC, log_partition DESC, log_offset DESC"
_FAILED = "outcome <> 'delivered'"
#: Ids that an index leads to, the one that fits the fewest attempts first.
_KEYS = ("delivery_id", "event_id", "subscription_id", "tenant")
#: Of these, failures have an index of their own: they are few among many.
_KEYS_OF_FAILURES = ("subscription_id", "tenant")


def tables(options: str) -> list[str]:
    """Statements that make what is missing. `options` ends the making of the table of attempts."""
    columns = ", ".join(f"{name} {_KINDS.get(name, 'TEXT NOT NULL')}" for name in COLUMNS)
    statements = [
        "CREATE TABLE IF NOT EXISTS history_meta (name TEXT PRIMARY KEY, text TEXT NOT NULL, number BIGINT NOT NULL)",
        "CREATE TABLE IF NOT EXISTS history_positions (log_partition INTEGER PRIMARY KEY, next_offset BIGINT NOT NULL)",
        f"CREATE TABLE IF NOT EXISTS history_attempts ({columns}, PRIMARY KEY ({_PLACE})) {options}",
        (
            "CREATE TABLE IF NOT EXISTS history_latency (hour BIGINT NOT NULL, subscription_id TEXT NOT NULL,"
            " kind TEXT NOT NULL, bucket INTEGER NOT NULL, count BIGINT NOT NULL,"
            " PRIMARY KEY (subscription_id, hour, kind, bucket))"
        ),
        "CREATE INDEX IF NOT EXISTS history_latency_hour ON history_latency (hour)",
    ]
    statements += [
        f"CREATE INDEX IF NOT EXISTS history_by_{key} ON history_attempts ({key}, {_PLACE})" for key in _KEYS
    ]
    statements += [
        f"CREATE INDEX IF NOT EXISTS history_failed_by_{key} ON history_attempts ({key}, {_PLACE}) WHERE {_FAILED}"
        for key in _KEYS_OF_FAILURES
    ]
    return statements


def _sql(*parts: str) -> str:
    """One statement of words that stand in this file: whatever is given comes as a parameter."""
    return " ".join(part for part in parts if part)


_ALL = ", ".join(COLUMNS)
INSERT = _sql("INSERT INTO history_attempts (", _ALL, ") VALUES (", ", ".join("?" * len(COLUMNS)), ")")
COUNT = (
    "INSERT INTO history_latency (hour, subscription_id, kind, bucket, count) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (subscription_id, hour, kind, bucket) DO UPDATE SET count = history_latency.count + excluded.count"
)
MOVE = "UPDATE history_positions SET next_offset = ? WHERE log_partition = ? AND next_offset = ?"
PLACE_FIRST = "INSERT INTO history_positions (next_offset, log_partition) VALUES (?, ?)"
POSITIONS = "SELECT log_partition, next_offset FROM history_positions"
META = "SELECT text, number FROM history_meta WHERE name = ?"
SET_META = "INSERT INTO history_meta (text, number, name) VALUES (?, ?, ?)"
ADD_TO_META = "UPDATE history_meta SET number = number + ? WHERE name = ?"
LATENCIES = (
    "SELECT kind, bucket, SUM(count) FROM history_latency"
    " WHERE subscription_id = ? AND hour >= ? AND hour <= ? GROUP BY kind, bucket"
)
#: The attempt that is so many after the oldest.
OLDEST = _sql("SELECT", _PLACE, "FROM history_attempts ORDER BY", _PLACE, "LIMIT 1 OFFSET ?")
TRIM = _sql("DELETE FROM history_attempts WHERE (", _PLACE, ") < (?, ?, ?)")
TRIM_HOUR = (
    "DELETE FROM history_latency WHERE hour < ? AND hour = (SELECT hour FROM history_latency ORDER BY hour LIMIT 1)"
)


class Search:
    """The statements of one search. `like` is how the database compares texts in whatever case."""

    def __init__(self, wanted: Wanted, like: str) -> None:
        self._narrow, self._narrow_by = _narrow(wanted)
        self._further, self._further_by = _further(wanted, self._narrow, like)
        self.newest = None if wanted.until_ms is None else Place(wanted.until_ms, -1, -1)

    def rows(self, before: Place | None, window: int, limit: int) -> tuple[str, list[Any]]:
        """What fits of a window of so many rows; at most so many."""
        inside, given = self._window("*", before)
        text = _sql("SELECT", _ALL, "FROM (", inside, "LIMIT ?) AS w", _where(self._further), NEWEST_FIRST, "LIMIT ?")
        return text, [*given, window, *self._further_by, limit]

    def end(self, before: Place | None, window: int) -> tuple[str, list[Any]]:
        """The last place of that window; no row when it holds less."""
        inside, given = self._window(_PLACE, before)
        return f"{inside} LIMIT 1 OFFSET ?", [*given, window - 1]

    def _window(self, columns: str, before: Place | None) -> tuple[str, list[Any]]:
        conditions, given = list(self._narrow), list(self._narrow_by)
        if before is not None:
            conditions.append(f"({_PLACE}) < (?, ?, ?)")
            given += before
        return _sql("SELECT", columns, "FROM history_attempts", _where(conditions), NEWEST_FIRST), given


def _where(conditions: list[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _narrow(wanted: Wanted) -> tuple[list[str], list[Any]]:
    """What an index finds."""
    conditions: list[str] = []
    given: list[Any] = []
    for key in _KEYS:
        if (value := getattr(wanted, key)) is not None:
            conditions, given = [f"{key} = ?"], [value]
            if key in _KEYS_OF_FAILURES and wanted.outcomes and "delivered" not in wanted.outcomes:
                conditions.append(_FAILED)
            break
    if wanted.since_ms > 0:
        conditions.append("started_ms >= ?")
        given.append(wanted.since_ms)
    return conditions, given


def _further(wanted: Wanted, narrow: list[str], like: str) -> tuple[list[str], list[Any]]:
    """What is looked at row by row."""
    conditions: list[str] = []
    given: list[Any] = []
    for key in _KEYS:
        value = getattr(wanted, key)
        if value is not None and f"{key} = ?" not in narrow:
            conditions.append(f"{key} = ?")
            given.append(value)
    if wanted.outcomes:
        conditions.append(f"outcome IN ({', '.join('?' * len(wanted.outcomes))})")
        given += wanted.outcomes
    if wanted.status is not None:
        conditions.append("status BETWEEN ? AND ?")
        given += wanted.status
    if wanted.text:
        escaped = wanted.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        places = ("detail", "cause", "excerpt", "event_type")
        conditions.append("(" + " OR ".join(f"{name} {like} ? ESCAPE '\\'" for name in places) + ")")
        given += [f"%{escaped}%"] * len(places)
    return conditions, given
