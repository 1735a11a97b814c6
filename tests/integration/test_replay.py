"""Replays on a real Kafka: a worker that is killed, orders that change, and every delivery once all the same."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from connectors.local_kafka import Cluster
from connectors.publisher import TransactionalPublisher
from connectors.replays import ProgressTable
from schemas import codec
from schemas.delivery import REPLAY_HEADER, Wire, decode_delivery, encode_dead_letter, encode_delivery
from schemas.ids import delivery_id
from schemas.replay import Progress, Replay, Selection, encode_replay
from streams import replay_role
from tests.conftest import new_prefix
from tests.helpers import eventually_async
from tests.integration.workers import Site

EVENTS = tuple(f"evt_{number}" for number in range(3_000))
SUBSCRIPTIONS = ("sub_0", "sub_1")


class Place:
    """A site with events, orders to replay them, and how far they have come."""

    def __init__(self, site: Site, progress: ProgressTable, folder: Path) -> None:
        self.site = site
        self.table = progress
        self.log = folder / "worker.log"

    def order(self, order_id: str, **fields: Any) -> Replay:
        of_order = {name: fields.pop(name) for name in ("rate_max", "wanted") if name in fields}
        selection = Selection(**({"source": "events"} | fields))
        values: dict[str, Any] = {"wanted": "running", "rate_max": 0.0} | of_order
        return self.put(Replay(id=order_id, created_ms=1, by="test", selection=selection, **values))

    def put(self, order: Replay) -> Replay:
        header = codec.wire_header(self.site.schemas.replay)
        self.site.write(self.site.topics.replays, [(order.id.encode(), encode_replay(header, order))])
        return order

    def state(self, order_id: str) -> str:
        progress = self.table.get(order_id)
        return "" if progress is None else progress.state

    async def comes_to(self, state: str, order_id: str) -> Progress:
        await eventually_async(lambda: self.state(order_id) == state, timeout_s=90, message=f"{order_id} is {state}")
        progress = self.table.get(order_id)
        assert progress is not None
        return progress

    def sent(self, order_id: str) -> Counter[str]:
        """How often each delivery of the replay is there for readers of committed records."""
        found: Counter[str] = Counter()
        for message in self.site.read(self.site.topics.replay):
            delivery = decode_delivery(message.value(), 2)
            if dict(delivery.headers)[REPLAY_HEADER] == order_id:
                found[delivery.id] += 1
        return found

    async def has_sent(self, order_id: str, expected: Counter[str] | int) -> None:
        """Exactly these, or so many: what is said of them may be there to read a moment before they are."""

        def there() -> bool:
            found = self.sent(order_id)
            return (found.total() if isinstance(expected, int) else found) == expected

        await eventually_async(there, timeout_s=60, message=f"what is sent of {order_id}")


def once(*events: str) -> Counter[str]:
    return Counter(delivery_id(event, each) for event in events for each in SUBSCRIPTIONS)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def place(kafka: Cluster) -> AsyncIterator[Place]:
    site = await Site.made(kafka.bootstrap, new_prefix(), metrics_port=0)
    for each in SUBSCRIPTIONS:
        site.subscribe(each, "http://127.0.0.1:9/")
    site.send(EVENTS)
    table = ProgressTable({"bootstrap.servers": kafka.bootstrap}, site.topics.replays_progress)
    await table.start()
    with tempfile.TemporaryDirectory() as folder:
        yield Place(site, table, Path(folder))
    await table.stop()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_killed_in_the_middle_another_worker_goes_on_and_each_is_sent_once(place: Place) -> None:
    site = place.site

    def is_in_the_middle() -> bool:
        progress = place.table.get("rpl_kill")
        return progress is not None and progress.sent >= 100

    order = place.order("rpl_kill", rate_max=100.0)  # a minute for all of it: nobody is late to the middle
    with site.worker_process("replay-0", ["replay"], log=place.log) as first:
        first.ready()
        await eventually_async(is_in_the_middle, timeout_s=60, message="some are sent")
        first.kill()
    assert place.state("rpl_kill") == "running"
    place.put(msgspec.structs.replace(order, rate_max=0.0))
    with site.worker_process("replay-1", ["replay"], log=place.log):
        progress = await place.comes_to("done", "rpl_kill")
    await place.has_sent("rpl_kill", once(*EVENTS))
    assert (progress.counted, progress.sent, progress.read) == (6_000, 6_000, 3_000)
    (operation,) = [each for each in site.operations() if each.replay_id == "rpl_kill"]
    assert (operation.kind, operation.reason, operation.count) == ("replay.finished", "done", 6_000)


async def test_planned_run_paused_resumed_and_cancelled(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site, bootstrap = place.site, place.site.settings.bootstrap
    monkeypatch.setattr(replay_role, "FENCED_PAUSE_S", 0.1)
    order = place.order("rpl_slow", wanted="planned", rate_max=30.0)
    async with site.worker(["replay"]) as worker:
        planned = await place.comes_to("planned", "rpl_slow")
        assert (planned.counted, planned.sent) == (6_000, 0)
        running = place.put(msgspec.structs.replace(order, wanted="running"))
        await eventually_async(lambda: place.sent("rpl_slow"), timeout_s=60, message="some are sent")
        place.put(msgspec.structs.replace(running, wanted="paused"))
        paused = await place.comes_to("paused", "rpl_slow")
        assert paused.sent < 6_000
        await place.has_sent("rpl_slow", paused.sent)
        metrics = worker.metrics
        assert metrics is not None

        def shown_as_paused() -> dict[tuple[str, ...], Any]:
            shown = {(name, *labels): number for name, labels, number in metrics.samples()}
            return shown if shown["distributary_replays", "paused"] == 1 else {}

        shown = await eventually_async(shown_as_paused)
        assert shown["distributary_replay_active",] == 1
        assert shown["distributary_replays", "running"] == 0
        assert shown["distributary_replay_deliveries_total",] == paused.sent
        assert shown["distributary_replay_remaining_deliveries",] == 6_000 - paused.sent
        assert not metrics.unready()
        assert not metrics.dead()
        place.put(running)
        await place.comes_to("running", "rpl_slow")
        intruder = TransactionalPublisher({"bootstrap.servers": bootstrap}, site.settings.group("replay"), lambda: None)
        await intruder.start()  # as a worker that has become active without this one's knowledge
        await intruder.close()
        fenced = "another worker runs the replays"
        await eventually_async(lambda: fenced in caplog.text, timeout_s=60, message="this worker is fenced")
        before = place.sent("rpl_slow").total()
        await eventually_async(
            lambda: place.sent("rpl_slow").total() > before, timeout_s=60, message="it is active again"
        )
        place.put(msgspec.structs.replace(running, wanted="cancelled"))
        cancelled = await place.comes_to("cancelled", "rpl_slow")
        assert cancelled.sent >= paused.sent
        await place.has_sent("rpl_slow", cancelled.sent)

        # Besides: of the deliveries and dead letters that there are, and within the times that were asked for.
        wire = Wire(codec.wire_header(site.schemas.delivery_v1), codec.wire_header(site.schemas.delivery))
        dead_header = codec.wire_header(site.schemas.dead_letter)
        made, dead = [], []
        for message in site.read(site.topics.replay)[:300]:
            delivery = msgspec.structs.replace(decode_delivery(message.value(), 2), headers=())
            made.append((message.key(), encode_delivery(wire, delivery)))
            dead.append((message.key(), encode_dead_letter(dead_header, delivery, "exhausted", "", 1)))
        site.write(site.topics.deliveries, made)
        site.write(site.topics.dead, dead)
        since_ms = min(message.timestamp()[1] for message in site.read(site.topics.dead))
        place.order("rpl_dead", source="dead", reasons=("exhausted",), since_ms=since_ms)
        place.order("rpl_before", source="dead", until_ms=since_ms)
        place.order("rpl_made", source="deliveries", subscriptions=("sub_0",))
        done = await place.comes_to("done", "rpl_dead")
        assert (done.counted, done.sent) == (300, 300)
        await place.has_sent("rpl_dead", 300)
        assert (await place.comes_to("done", "rpl_before")).sent == 0
        done = await place.comes_to("done", "rpl_made")
        assert done.counted == done.sent == [key for key, _ in made].count(b"sub_0")
        await place.has_sent("rpl_made", done.sent)
