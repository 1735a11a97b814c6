"""A worker that is to stop while an endpoint hangs: it waits for as long as it may, and not at all when told twice."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from connectors.local_kafka import Cluster
from schemas.ids import delivery_id
from tests.cli import Cli
from tests.integration.moody import Mood, moody_process
from tests.integration.workers import Site, until


@pytest.mark.timeout(300)
async def test_a_hanging_post_does_not_hold_up_the_end(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    site = await Site.made(kafka.bootstrap, prefix)

    def cli(drain_s: int) -> Cli:
        settings = {"bootstrap": kafka.bootstrap, "prefix": prefix, "drain_s": str(drain_s)}
        return Cli(tmp_path, settings | {"worker_id": "w1", "allow_private_networks": "true"})

    with moody_process() as moody:
        site.subscribe("hangs", moody.url("/hangs"), timeout_ms=120_000, max_in_flight=2)
        site.subscribe("slow", moody.url("/slow"))
        moody.turn("/hangs", Mood(status=0))
        moody.turn("/slow", Mood(status=0))
        with cli(drain_s=10).started("worker") as worker:
            worker.said("ready")
            site.send([f"evt_{n}" for n in range(10)])
            until(lambda: len(moody.arrivals("/hangs")) == 2, "two hang")
            until(lambda: len(moody.arrivals("/slow")) == 10, "others are under way")
            worker.process.send_signal(signal.SIGTERM)
            worker.said("stopping in order", on=worker.err)
            moody.turn("/slow")
            worker.ends(0, timeout_s=60)  # half of the time-out of what hangs
        assert site.outcomes() == {(delivery_id(f"evt_{n}", "slow"), "delivered"): 1 for n in range(10)}
        assert len(moody.arrivals("/hangs")) == 2

        with cli(drain_s=600).started("worker") as worker:
            worker.said("ready")
            until(lambda: len(moody.arrivals("/hangs")) == 4, "the next worker tries them again")
            worker.process.send_signal(signal.SIGTERM)
            worker.said("stopping in order; once more to stop at once", on=worker.err)
            worker.process.send_signal(signal.SIGINT)
            worker.ends(130)
        assert not site.outcomes().keys() & {(delivery_id(f"evt_{n}", "hangs"), "delivered") for n in range(10)}

        moody.turn("/hangs")
        with cli(drain_s=10).started("worker") as worker:
            worker.said("ready")
            until(lambda: moody.taken("/hangs") == 10, "nothing is lost")
            worker.process.send_signal(signal.SIGTERM)
            worker.ends(0)
        assert [one.status for one in moody.arrivals("/hangs")] == [0] * 4 + [204] * 10
        assert set(moody.accepted("/slow").values()) == {1}
    wanted = {delivery_id(f"evt_{n}", name) for n in range(10) for name in ("hangs", "slow")}
    assert site.outcomes() == {(one, "delivered"): 1 for one in wanted}
