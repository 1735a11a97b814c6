"""Which database of attempts a URL names.

PostgreSQL's library is imported only when it is asked for. This file opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from connectors.history.sql_store import SqlStore
from connectors.history.sqlite import SqliteDatabase

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


def open_store(url: str, monotonic: Callable[[], float]) -> SqlStore:
    """`sqlite:///file` in the working directory, `sqlite:////folder/file`, or `postgresql://user@host/database`.

    ValueError, which does not quote the URL: it may hold a password.
    """
    if url.startswith(SQLITE) and len(url) > len(SQLITE):
        return SqlStore(SqliteDatabase(Path(url.removeprefix(SQLITE))), monotonic)
    if url.startswith(POSTGRES):
        try:
            from connectors.history.postgres import PostgresDatabase  # noqa: PLC0415 - an extra
        except ImportError:
            raise ValueError("PostgreSQL needs psycopg; install distributary[postgres]") from None
        return SqlStore(PostgresDatabase(url), monotonic)
    raise ValueError("it is neither sqlite:///file nor postgresql://user@host/database")
