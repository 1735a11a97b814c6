"""A real PostgreSQL for tests: from the binaries of this machine, else in a container; without either, None.

The server refuses to run as root, so root runs it as somebody else. It is gone with the process that started it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from connectors.guardian import guarded
from connectors.local_kafka import docker_answers, steady_ports
from tests.helpers import eventually

IMAGE = "postgres:16-alpine"
SECONDS = 60.0
_AS_SOMEBODY = (
    "import os, sys; os.setgroups([]); os.setgid({gid}); os.setuid({uid}); os.execv(sys.argv[1], sys.argv[1:])"
)


@contextlib.contextmanager
def postgres_server() -> Iterator[str | None]:
    """The URL of a server's first database, whose user may make others."""
    server = _binary("postgres")
    if server is not None:
        with _local(server) as url:
            yield url
    else:
        with contextlib.ExitStack() as stack:
            yield _container(stack)


def new_database(server: str, name: str) -> str:
    """Its URL."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.rpartition("/")[0] + f"/{name}"


def _binary(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))  # where Debian hides it
    return str(found[-1]) if found else shutil.which(name)


@contextlib.contextmanager
def _local(server: str) -> Iterator[str]:
    home = Path(tempfile.mkdtemp(prefix="distributary-pg-"))
    user = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    switch = []
    if os.getuid() == 0:
        os.chown(home, user.pw_uid, user.pw_gid)
        switch = [sys.executable, "-I", "-S", "-c", _AS_SOMEBODY.format(uid=user.pw_uid, gid=user.pw_gid)]
    (port,) = steady_ports(1)
    data = str(home / "data")
    initdb = [str(Path(server).with_name("initdb")), "-D", data, "-U", "tests", "-A", "trust", "-E", "UTF8"]
    run = [server, "-D", data, "-k", "", "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    url = f"postgresql://tests@127.0.0.1:{port}/postgres"
    log = home.with_suffix(".log")
    try:
        with guarded([*switch, *initdb, "--no-locale", "--no-sync"], [*switch, *run], log=log, remove=home) as server_:

            def up() -> bool:
                assert not server_.ended(), log.read_text()
                with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url):
                    return True
                return False

            eventually(up, timeout_s=SECONDS, message="PostgreSQL answers")
            yield url
    finally:
        log.unlink(missing_ok=True)


def _container(stack: contextlib.ExitStack) -> str | None:
    if not docker_answers():
        return None
    container_class = importlib.import_module("testcontainers.postgres").PostgresContainer
    url: str = stack.enter_context(container_class(IMAGE, driver=None)).get_connection_url()
    return url
