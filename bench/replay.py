"""`replay`: a million events of a while, replayed: deliveries a second of the clock and of CPU time, memory, exactness.

One worker counts them (the dry run), then runs them without a cap; events before and after are not selected. Rates are
of the run alone, memory is the worker's peak until its end. Then the same is ordered again, the worker is killed with
SIGKILL in the middle, and another one goes on: what readers of committed records see must be each delivery once, and as
many as were counted, or this fails.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

import psutil
from confluent_kafka import Consumer, Producer, TopicPartition

from bench import harness
from bench.harness import cpu_s, report
from bench.world import MEMORY_EVERY_S, World, event, make_world, settings, subscription
from connectors.replays import ProgressTable
from schemas import codec
from schemas.delivery import REPLAY_HEADER, decode_delivery
from schemas.replay import Progress, Replay, Selection, encode_replay
from streams.app import Worker

EVENTS = 1_000_000
#: Besides, before and after the time that is replayed: one for so many of the others.
AROUND = 20
PARTITIONS = 8
TIMEOUT_S = 1_800.0
_LOOK_S = 0.02


class Ran(NamedTuple):
    """What a worker says of its first replay."""

    count_s: float
    run_s: float
    run_cpu_s: float
    peak_mib: float


async def replayer(bootstrap: str, prefix: str, partitions: int) -> None:
    """A role: a worker that runs replays. Reports its memory in MiB when it is ready, and what its first replay took,
    when that began here."""
    process = psutil.Process()
    started, stop = asyncio.Event(), asyncio.Event()
    worker = Worker(settings(bootstrap, prefix, partitions, metrics_port=0), ["replay"], on_ready=started.set)
    running = asyncio.create_task(worker.run(stop))
    ready = asyncio.create_task(started.wait())
    await asyncio.wait([ready, running], return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    assert worker.metrics is not None
    assert worker.metrics.replay is not None
    role = worker.metrics.replay
    report(process.memory_info().rss / (1 << 20))
    peak, looked = 0, 0.0
    begun: dict[str, tuple[float, float]] = {}
    while not running.done() and ("running" not in begun or (role.stage is not None and role.stage.progress)):
        for progress in role.stage.progress.values() if role.stage is not None else ():
            begun.setdefault(progress.state, (time.monotonic(), cpu_s()))
        if time.monotonic() - looked > MEMORY_EVERY_S:
            looked = time.monotonic()
            peak = max(peak, process.memory_info().rss)
        await asyncio.sleep(_LOOK_S)
    if "counting" in begun and "running" in begun:  # or it goes on with what another worker has begun
        (counting, _), (run, run_cpu) = begun["counting"], begun["running"]
        report(Ran(run - counting, time.monotonic() - run, cpu_s() - run_cpu, peak / (1 << 20)))
    await running


def fill(world: World, count: int) -> tuple[int, int]:
    """So many events between two times, in milliseconds, and some around them."""
    producer = harness.filler(world.bootstrap)
    around = count // AROUND
    numbers = iter(range(count + 2 * around))

    def write(how_many: int) -> None:
        for _ in range(how_many):
            number = next(numbers)
            producer.produce(world.topics.events, world.event_value(event(number)), str(number))
            if number % 10_000 == 0:
                producer.poll(0)
        producer.flush()
        time.sleep(0.01)  # the next ones are of another millisecond

    write(around)
    since_ms = time.time_ns() // 1_000_000
    write(count)
    until_ms = time.time_ns() // 1_000_000
    write(around)
    return since_ms, until_ms


def order(world: World, name: str, since_ms: int, until_ms: int) -> None:
    """Write it."""
    wanted = Replay(
        id=name,
        created_ms=until_ms,
        by="bench",
        selection=Selection(source="events", since_ms=since_ms, until_ms=until_ms),
        rate_max=0.0,
        wanted="running",
        again=True,
    )
    producer = Producer({"bootstrap.servers": world.bootstrap})
    value = encode_replay(codec.wire_header(world.schema_ids.replay), wanted)
    producer.produce(world.topics.replays, value, name)
    producer.flush()


async def killed_in_the_middle(world: World, first: harness.Role, name: str, count: int) -> Progress:
    """Kill the first worker when half is sent, start another one, and wait for the end."""
    table = ProgressTable({"bootstrap.servers": world.bootstrap}, world.topics.replays_progress)
    await table.start()

    async def come(sent: int, state: str = "") -> Progress:
        while True:
            progress = table.get(name)
            if progress is not None and progress.sent >= sent and progress.state.startswith(state):
                return progress
            await asyncio.sleep(_LOOK_S)

    try:
        halfway = await come(count // 2)
        first.end()
        harness.note(f"killed after {halfway.sent} of {halfway.counted}; another worker goes on")
        with harness.role("bench.replay:replayer", TIMEOUT_S, **world.arguments):
            return await come(0, "done")
    finally:
        await table.stop()


def sent(world: World, name: str) -> tuple[int, int]:
    """(deliveries of this replay that readers of committed records see, different ones of them)."""
    consumer = Consumer(
        {
            "bootstrap.servers": world.bootstrap,
            "group.id": "bench-replay",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(world.topics.replay, partition, 0) for partition in range(PARTITIONS)])
    seen: set[int] = set()
    count = ended = 0
    while ended < PARTITIONS:
        for message in consumer.consume(5_000, 1.0):
            if message.error() is not None:
                ended += 1
                continue
            delivery = decode_delivery(message.value() or b"", 2)
            if dict(delivery.headers)[REPLAY_HEADER] == name:
                count += 1
                seen.add(int(delivery.id[4:20], 16))  # 64 bits of the id: a set of a million integers
    consumer.close()
    return count, len(seen)


def measure(bootstrap: str, count: int) -> dict[str, Any]:
    """Fill, replay, replay again with a kill."""
    world = make_world(bootstrap, PARTITIONS, [subscription(0, "http://127.0.0.1:1024/")])
    since_ms, until_ms = fill(world, count)
    with harness.role("bench.replay:replayer", TIMEOUT_S, **world.arguments) as worker:
        start_mib = worker.line()
        order(world, "rpl_whole", since_ms, until_ms)
        ran = Ran(*worker.line())
        order(world, "rpl_killed", since_ms, until_ms)
        progress = asyncio.run(killed_in_the_middle(world, worker, "rpl_killed", count))
    for name in ("rpl_whole", "rpl_killed"):
        found = sent(world, name)
        if found != (count, count):
            raise RuntimeError(f"{name}: {found[0]} deliveries, {found[1]} different ones, in place of {count}")
    if (progress.counted, progress.sent) != (count, count):
        raise RuntimeError(f"{progress.counted} were counted and {progress.sent} sent, of {count}")
    return {"ran": ran, "start_mib": start_mib, "progress": progress}


def main(bootstrap: str, count: int = EVENTS) -> None:
    """The million."""
    found = measure(bootstrap, count)
    ran: Ran = found["ran"]
    harness.show("replay_dry_run", count / ran.count_s, "events/s")
    harness.show("replay", count / ran.run_s, "deliveries/s")
    harness.show("replay_cpu", count / ran.run_cpu_s, "deliveries/cpu_s")
    harness.show("replay_memory_at_start", found["start_mib"], "MiB")
    harness.show(
        "replay_memory", ran.peak_mib, "MiB", ratio=ran.peak_mib / found["start_mib"], vs="replay_memory_at_start"
    )
    sent_of = found["progress"]
    harness.show("replay_counted", sent_of.counted, "deliveries")
    harness.show("replay_sent", sent_of.sent, "deliveries", ratio=sent_of.sent / sent_of.counted, vs="replay_counted")
