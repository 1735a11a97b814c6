"""Attempts in a file: SQLite with a write-ahead log, so that readers and the one who writes do not wait for each other.

A crash of the machine may take the last transactions back, positions and all: they are read from Kafka again. The
process that writes holds a lock on a file beside the database, which ends with it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from connectors.history.queries import INSERT

#: How long a statement waits for another process.
BUSY_SECONDS = 5.0
CACHE_KIB = 128 * 1024
#: Pages are changed again and again before the log is written back: 128 MiB of it.
WAL_PAGES = 16_000
_PAGE_BYTES = 8192


class _Connection(sqlite3.Connection):
    """One that gives its lock back."""

    lock_file: int | None = None

    def close(self) -> None:
        super().close()
        if self.lock_file is not None:
            os.close(self.lock_file)
            self.lock_file = None


class SqliteDatabase:
    """A file. Its folder must exist."""

    table_options = "WITHOUT ROWID"
    like = "LIKE"
    errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError)

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)

    def connect(self, *, writing: bool) -> _Connection:
        """Who only reads makes no file."""
        uri = f"file:{quote(str(self._path))}?mode={'rwc' if writing else 'rw'}"
        connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,  # transactions begin where we say
            check_same_thread=False,  # one thread at a time, and the last one closes
            factory=_Connection,
        )
        pragmas = [f"cache_size = -{CACHE_KIB if writing else CACHE_KIB // 16}"]
        if not writing:
            pragmas.append("query_only = ON")
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def lock(self, connection: _Connection) -> bool:
        """Before anything is written."""
        descriptor = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        connection.lock_file = descriptor
        for pragma in (
            f"page_size = {_PAGE_BYTES}",  # of a new file only
            "journal_mode = WAL",
            "synchronous = NORMAL",
            f"wal_autocheckpoint = {WAL_PAGES}",
            f"journal_size_limit = {WAL_PAGES * _PAGE_BYTES}",
        ):
            connection.execute(f"PRAGMA {pragma}")
        return True

    def execute(self, connection: _Connection, text: str, given: Sequence[Any] = ()) -> sqlite3.Cursor:
        """See the port."""
        return connection.execute(text, given)

    def execute_many(self, connection: _Connection, text: str, given: Sequence[Sequence[Any]]) -> None:
        """See the port."""
        connection.executemany(text, given)

    def insert(self, connection: _Connection, rows: Sequence[Sequence[Any]]) -> None:
        """See the port."""
        connection.executemany(INSERT, rows)

    def text(self, given: str) -> str:
        """Any."""
        return given
