"""Attempts in PostgreSQL, written with COPY. Needs the extra `postgres`: psycopg.

The process that writes holds an advisory lock, which ends with its session, as its transactions do. Commits do not wait
for the disk: what a crash of the server takes back, it takes back with its positions, and it is read from Kafka again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from connectors.history.queries import COLUMNS

CONNECT_SECONDS = 10
#: A statement that takes longer is ended.
STATEMENT_MS = 30_000
#: Of the advisory lock: any number, the same for all of us.
LOCK_ID = 0x64697374
_COPY = f"COPY history_attempts ({', '.join(COLUMNS)}) FROM STDIN".encode()
_NUL = "\x00"


class PostgresDatabase:
    """A database by its URL, which may hold a password and is never shown."""

    table_options = ""
    like = "ILIKE"
    errors: tuple[type[Exception], ...] = (psycopg.Error, OSError)

    def __init__(self, url: str) -> None:
        """ValueError for what is no URL of PostgreSQL."""
        try:
            parts = psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.Error:
            raise ValueError("it is no URL such as postgresql://user@host/database") from None
        self._url = url
        self.name = f"PostgreSQL at {parts.get('host', 'localhost')}/{parts.get('dbname', '')}"

    def connect(self, *, writing: bool) -> psycopg.Connection[Any]:
        """Transactions begin where we say."""
        connection = psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            application_name="distributary-history",
            client_encoding="utf8",
        )
        connection.execute(f"SET statement_timeout = {STATEMENT_MS}".encode())
        connection.execute(b"SET synchronous_commit = off" if writing else b"SET default_transaction_read_only = on")
        return connection

    def lock(self, connection: psycopg.Connection[Any]) -> bool:
        """Of this database and schema: two may be on one server."""
        row = connection.execute(b"SELECT pg_try_advisory_lock(%s, hashtext(current_schema()))", (LOCK_ID,)).fetchone()
        return bool(row and row[0])

    def execute(self, connection: psycopg.Connection[Any], text: str, given: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
        """See the port."""
        return connection.execute(text.replace("?", "%s").encode(), given)

    def execute_many(self, connection: psycopg.Connection[Any], text: str, given: Sequence[Sequence[Any]]) -> None:
        """See the port."""
        connection.cursor().executemany(text.replace("?", "%s").encode(), given)

    def insert(self, connection: psycopg.Connection[Any], rows: Sequence[Sequence[Any]]) -> None:
        """By COPY."""
        with connection.cursor().copy(_COPY) as copy:
            for row in rows:
                copy.write_row([_held(value) for value in row])

    def text(self, given: str) -> str:
        """PostgreSQL's texts hold no NUL."""
        return given.replace(_NUL, "\ufffd")


def _held(value: Any) -> Any:
    return value.replace(_NUL, "\ufffd") if isinstance(value, str) and _NUL in value else value
