"""A thousand changes from fifty clients while a worker runs: none is lost, and API, topic and tables agree."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from bench.api_writes import agreed, principal, write
from connectors.local_kafka import Cluster
from streams.api_app import api_app
from streams.settings import Settings
from tests.integration.workers import Site

WRITES = 1_000


@pytest.mark.timeout(300)
async def test_no_change_is_lost(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    settings = Settings(bootstrap=kafka.bootstrap, prefix=prefix, api_rate=0)
    with site.worker_process("w1", log=tmp_path / "worker.log") as worker:
        worker.ready()
        async with api_app(settings, principal()) as app, TestServer(app) as server:
            written = await write(str(server.make_url("")).rstrip("/"), writes=WRITES, counters=20)
        assert len(written.took_s) == WRITES
        assert written.refused > 0, "nobody was in anybody's way"
        assert await agreed(settings, written) == []
        written.counters[next(iter(written.counters))] += 1
        assert len(await agreed(settings, written)) == 2, "a count that is wrong is noticed"
        worker.terminate()
