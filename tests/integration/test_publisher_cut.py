"""A publisher whose connections are all reset, again and again: each transaction is committed once and whole, in order,
and hardly ever by a new producer. A broker of its own, behind a cutter."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from connectors.control import Control, helper
from connectors.local_brokers import choose_doors, local_brokers
from connectors.publisher import TransactionalPublisher
from tests.conformance.test_publishers import KafkaWorld, record, values
from tests.helpers import eventually_async

CUTS = 8
#: Transactions before a cut: the producer is known to be well again.
BETWEEN = 20
GIVEN_UP = "librdkafka does not come back"


class Broker:
    """One broker, and where the cutter before it takes orders."""

    def __init__(self, bootstrap: str, control_port: int) -> None:
        self.bootstrap = bootstrap
        self._control_port = control_port

    async def cut(self) -> None:
        async with Control(self._control_port) as control:
            assert await control.ask({"do": "cut", "routes": [0]}) > 0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder, doors = tmp_path_factory.mktemp("broker"), choose_doors(1)
    with asyncio.Runner() as runner:
        cutting = helper("connectors.cutter", str(doors[0].clients), log=folder / "cutter.log")
        cutter = runner.run(cutting.__aenter__())
        try:
            with local_brokers(folder, doors, advertised=cutter.said["ports"]) as running:
                yield Broker(running.bootstrap, cutter.said["control"])
        finally:
            runner.run(cutting.__aexit__(None, None, None))


class Forgetful(KafkaWorld):
    """With librdkafka's default: when no broker is connected, all that is known of the cluster is forgotten."""

    def _made(self, transactional_id: str) -> TransactionalPublisher:
        config = {"bootstrap.servers": self._bootstrap, "metadata.recovery.strategy": "rebootstrap"}
        return TransactionalPublisher(config, f"{self._prefix}{transactional_id}", lambda: self._group)


async def given_up(world: KafkaWorld, broker: Broker, caplog: pytest.LogCaptureFixture, enough: int) -> int:
    """Publish all the while, and cut up to `CUTS` times, or until so many producers were given up; how many were."""
    await world.member()
    publisher = await world.publisher("tx")
    done, halt = 0, asyncio.Event()
    out, source = world.topic("out"), world.topic("source")

    async def publish() -> None:
        nonlocal done
        while not halt.is_set():
            await publisher.publish([record(out, b"%d" % done)], [(source, 0, done + 1, "")])
            done += 1

    async def goes_on() -> None:
        wanted = done + BETWEEN
        await eventually_async(lambda: publishing.done() or done >= wanted, timeout_s=90, message="it goes on")

    publishing = asyncio.create_task(publish())
    await goes_on()
    cuts = 0
    while cuts < CUTS and caplog.text.count(GIVEN_UP) < enough and not publishing.done():
        cuts += 1
        await broker.cut()
        await goes_on()
    halt.set()
    await publishing
    assert values(await world.read(out)) == [b"%d" % number for number in range(done)]
    assert await world.committed(source, 0) == (done, "")
    return caplog.text.count(GIVEN_UP)


async def test_reset_connections_are_no_reason_for_a_new_producer(
    broker: Broker, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = KafkaWorld(broker.bootstrap, prefix)
    try:
        # A machine that stands still for seconds may be one; with the default of librdkafka nearly every cut is.
        assert await given_up(world, broker, caplog, enough=CUTS) <= CUTS // 4
    finally:
        await world.close()


async def test_what_librdkafka_does_not_come_back_from_is_written_by_another_producer(
    broker: Broker, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = Forgetful(broker.bootstrap, prefix)
    try:
        assert await given_up(world, broker, caplog, enough=2) >= 2
    finally:
        await world.close()
