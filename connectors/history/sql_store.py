"""`HistoryStore` on a database that speaks SQL: what SQLite and PostgreSQL share.

One connection writes, on a thread of its own; a few others read. What differs between databases is a `Database`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import msgspec

from connectors.history import queries
from connectors.history.attempts import HistoryPage, HistoryUnavailableError, LoggedAttempt, Place, Wants
from connectors.history.histogram import HOUR_MS, KINDS, bucket
from connectors.history.store import SEARCH_SECONDS, Batch, Latencies, StoreMismatchError, Wanted

T = TypeVar("T")

READERS_MAX = 4
#: How long a read waits for one of them.
WAIT_SECONDS = 5.0
#: Rows of one window of a search: few at first, since what is asked for is mostly new.
WINDOW_MIN, WINDOW_MAX = 200, 20_000
#: Rows that retention removes in one transaction.
TRIM_ROWS = 5_000


class Database(Protocol):
    """What differs. Connections are DB-API's, and do not begin transactions by themselves."""

    #: For errors: which one it is, without a password.
    name: str
    #: What ends CREATE TABLE.
    table_options: str
    #: The operator that compares with a pattern in whatever case.
    like: str
    #: What its calls raise.
    errors: tuple[type[Exception], ...]

    def connect(self, *, writing: bool) -> Any:
        """A connection."""

    def lock(self, connection: Any) -> bool:
        """Become the one who writes, for as long as the connection lives; False while another is."""

    def execute(self, connection: Any, text: str, given: Sequence[Any] = ()) -> Any:
        """Run one statement with `?` parameters; the cursor."""

    def execute_many(self, connection: Any, text: str, given: Sequence[Sequence[Any]]) -> None:
        """Run it for each."""

    def insert(self, connection: Any, rows: Sequence[Sequence[Any]]) -> None:
        """Attempts, as `queries.COLUMNS`."""

    def text(self, given: str) -> str:
        """As the database can hold it."""


class SqlStore:
    """See the port."""

    def __init__(
        self, database: Database, monotonic: Callable[[], float], *, search_seconds: float = SEARCH_SECONDS
    ) -> None:
        """Nothing is connected until the first call."""
        self._database = database
        self._monotonic = monotonic
        self._search_seconds = search_seconds
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="history-writer")
        self._writing: Any = None
        self._readers = ThreadPoolExecutor(READERS_MAX, thread_name_prefix="history-reader")
        self._places = asyncio.Semaphore(READERS_MAX)
        self._local = threading.local()
        self._reading: set[Any] = set()

    # --- writing ------------------------------------------------------------------------------------------------

    async def acquire(self, topic: str) -> Mapping[int, int] | None:
        """See the port."""
        return await self._write(lambda: self._acquire(topic))

    async def write(self, batch: Batch) -> None:
        """See the port."""
        await self._write(lambda: self._store(batch))

    async def trim(self, before_ms: int, attempts_max: int) -> bool:
        """See the port: `TRIM_ROWS` and the latencies of one hour, at most."""
        return await self._write(lambda: self._trim(before_ms, attempts_max))

    async def release(self) -> None:
        """See the port."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self._release)

    async def close(self) -> None:
        """See the port."""
        await self.release()
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._reading:
            await asyncio.to_thread(connection.close)
        self._reading.clear()

    async def _write(self, job: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return job()
            except self._database.errors as error:
                self._release()
                raise self._unavailable(error, "check that it can be reached and written, and has room") from None

        return await asyncio.get_running_loop().run_in_executor(self._writer, guarded)

    def _acquire(self, topic: str) -> Mapping[int, int] | None:
        self._release()
        connection = self._database.connect(writing=True)
        try:
            if not self._database.lock(connection):
                connection.close()
                return None
            with self._transaction(connection):
                for statement in queries.tables(self._database.table_options):
                    self._execute(connection, statement)
                self._check(connection, topic)
        except BaseException:
            connection.close()
            raise
        self._writing = connection
        return dict(self._execute(connection, queries.POSITIONS).fetchall())

    def _check(self, connection: Any, topic: str) -> None:
        row = self._execute(connection, queries.META, ("topic",)).fetchone()
        if row is None:
            self._execute(connection, queries.SET_META, (topic, queries.SCHEMA_VERSION, "topic"))
            self._execute(connection, queries.SET_META, ("", 0, "attempts"))
        elif row[1] != queries.SCHEMA_VERSION:
            raise StoreMismatchError(
                f"{self._database.name} was made by another release (version {row[1]}); name another store"
            )
        elif row[0] != topic:
            raise StoreMismatchError(f"{self._database.name} holds attempts of the topic {row[0]}; name another store")

    def _store(self, batch: Batch) -> None:
        connection = self._held()
        text = self._database.text
        rows = []
        for attempt in batch.attempts:
            row = list(msgspec.structs.astuple(attempt))
            row[_EXCERPT] = text(attempt.excerpt.decode("utf-8", "replace")) if attempt.excerpt else ""
            rows.append(row)
        counted = _latencies(batch.attempts)
        with self._transaction(connection):
            for partition, span in batch.spans.items():
                self._move(connection, partition, span.start, span.end)
            self._database.insert(connection, rows)
            self._database.execute_many(
                connection, queries.COUNT, [(*key, count) for key, count in sorted(counted.items())]
            )
            self._execute(connection, queries.ADD_TO_META, (len(rows), "attempts"))

    def _move(self, connection: Any, partition: int, start: int | None, end: int) -> None:
        if start is None:
            if not any(row[0] == partition for row in self._execute(connection, queries.POSITIONS).fetchall()):
                self._execute(connection, queries.PLACE_FIRST, (end, partition))
                return
        elif self._execute(connection, queries.MOVE, (end, partition, start)).rowcount == 1:
            return
        raise StoreMismatchError(f"another process has written to {self._database.name}; start this one again")

    def _trim(self, before_ms: int, attempts_max: int) -> bool:
        connection = self._held()
        with self._transaction(connection):
            held = self._execute(connection, queries.META, ("attempts",)).fetchone()[1]
            too_many = min(max(0, held - attempts_max), TRIM_ROWS)
            end = Place(before_ms, -1, -1)
            many = self._execute(connection, queries.OLDEST, (TRIM_ROWS,)).fetchone()
            if many is not None:
                end = min(end, Place(*many))
            if too_many and (surplus := self._execute(connection, queries.OLDEST, (too_many,)).fetchone()):
                end = max(end, Place(*surplus))
            removed = self._execute(connection, queries.TRIM, end).rowcount
            if removed:
                self._execute(connection, queries.ADD_TO_META, (-removed, "attempts"))
            hours = self._execute(connection, queries.TRIM_HOUR, (before_ms // HOUR_MS,)).rowcount
        return bool(removed >= TRIM_ROWS or hours)

    def _held(self) -> Any:
        if self._writing is None:
            raise HistoryUnavailableError(f"{self._database.name} is not held for writing; acquire it again")
        return self._writing

    def _release(self) -> None:
        connection, self._writing = self._writing, None
        if connection is not None:
            with contextlib.suppress(*self._database.errors):
                connection.close()

    @contextlib.contextmanager
    def _transaction(self, connection: Any) -> Iterator[None]:
        self._execute(connection, "BEGIN")
        try:
            yield
            self._execute(connection, "COMMIT")
        except BaseException:
            with contextlib.suppress(*self._database.errors):  # the first error is the one to tell
                self._execute(connection, "ROLLBACK")
            raise

    # --- reading ------------------------------------------------------------------------------------------------

    async def search(self, wanted: Wanted, *, limit: int, before: Place | None = None) -> HistoryPage:
        """See the port."""
        return await self._read(lambda connection: self._search(connection, wanted, None, limit, before))

    async def page(
        self,
        subscription_id: str,
        wants: Wants,
        *,
        limit: int,
        before: Place | None = None,
        since_ms: int = 0,
        until_ms: int | None = None,
        outcomes: Collection[str] = (),
    ) -> HistoryPage:
        """See the port."""
        until = None if until_ms is None else until_ms + 1
        wanted = Wanted(
            subscription_id=subscription_id, since_ms=since_ms, until_ms=until, outcomes=tuple(sorted(outcomes))
        )
        return await self._read(lambda connection: self._search(connection, wanted, wants, limit, before))

    async def find(self, delivery_id: str) -> LoggedAttempt | None:
        """See the port: of all that are kept."""
        found = await self.search(Wanted(delivery_id=delivery_id), limit=1)
        return found.attempts[0] if found.attempts else None

    async def latencies(self, subscription_id: str, since_ms: int, until_ms: int) -> Latencies:
        """See the port."""
        given = (self._database.text(subscription_id), since_ms // HOUR_MS, until_ms // HOUR_MS)

        def read(connection: Any) -> Latencies:
            counts: dict[str, dict[int, int]] = {kind: {} for kind in KINDS}
            for kind, number, count in self._execute(connection, queries.LATENCIES, given).fetchall():
                counts[kind][number] = int(count)
            return Latencies(counts)

        return await self._read(read)

    async def _read(self, read: Callable[[Any], T]) -> T:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise HistoryUnavailableError("many others are reading attempts; try again") from None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._with_reader, read)
        finally:
            self._places.release()

    def _with_reader(self, read: Callable[[Any], T]) -> T:
        connection = getattr(self._local, "connection", None)
        try:
            if connection is None:
                connection = self._local.connection = self._database.connect(writing=False)
                self._reading.add(connection)
            return read(connection)
        except self._database.errors as error:
            self._local.connection = None
            self._reading.discard(connection)
            if connection is not None:
                with contextlib.suppress(*self._database.errors):
                    connection.close()
            raise self._unavailable(error, "check it, and that `distributary history` has run") from None

    def _search(
        self, connection: Any, wanted: Wanted, wants: Wants | None, limit: int, before: Place | None
    ) -> HistoryPage:
        search = queries.Search(_clean(wanted, self._database.text), self._database.like)
        deadline = self._monotonic() + self._search_seconds
        if search.newest is not None:
            before = search.newest if before is None else min(before, search.newest)
        found: list[LoggedAttempt] = []
        window = max(WINDOW_MIN, limit)
        while True:
            most = window if wants else limit - len(found)
            for row in self._execute(connection, *search.rows(before, window, most)).fetchall():
                attempt = _attempt(row)
                if wants is None or wants(attempt):
                    found.append(attempt)
                    if len(found) == limit:
                        return HistoryPage(found, attempt.place, False)
            end = self._execute(connection, *search.end(before, window)).fetchone()
            if end is None:
                return HistoryPage(found, None, False)
            before = Place(*end)
            if self._monotonic() > deadline:
                return HistoryPage(found, before, True)
            window = min(4 * window, WINDOW_MAX)

    def _execute(self, connection: Any, text: str, given: Sequence[Any] = ()) -> Any:
        return self._database.execute(connection, text, given)

    def _unavailable(self, error: Exception, advice: str) -> HistoryUnavailableError:
        said = " ".join(str(error).split())
        return HistoryUnavailableError(f"the history in {self._database.name} cannot be used: {said}; {advice}")


_EXCERPT = queries.COLUMNS.index("excerpt")


def _attempt(row: Sequence[Any]) -> LoggedAttempt:
    values = list(row)
    values[_EXCERPT] = values[_EXCERPT].encode()
    return LoggedAttempt(*values)


def _clean(wanted: Wanted, text: Callable[[str], str]) -> Wanted:
    names = ("delivery_id", "event_id", "subscription_id", "tenant", "text")
    given = {name: text(value) for name in names if (value := getattr(wanted, name)) is not None}
    return msgspec.structs.replace(wanted, **given)


def _latencies(attempts: Sequence[LoggedAttempt]) -> Counter[tuple[int, str, str, int]]:
    """(hour, subscription, kind, bucket): how many. What ended without a POST took no time, and is not counted."""
    counted: Counter[tuple[int, str, str, int]] = Counter()
    for attempt in attempts:
        if not (attempt.status or attempt.cause):
            continue
        hour = attempt.started_ms // HOUR_MS
        counted[hour, attempt.subscription_id, "attempt", bucket(attempt.duration_us)] += 1
        if attempt.outcome == "delivered":
            whole_us = (attempt.started_ms - attempt.received_ms) * 1_000 + attempt.duration_us
            counted[hour, attempt.subscription_id, "delivered", bucket(whole_us)] += 1
    return counted
