"""Making the audit's faults: each at its time, or as soon after as the one before it of its kind's row is over.

What was really done, to whom, from when to when, and what it met is written down (`Made`), for people, and to say which
fault explains which duplicate. What is drawn is `audit_faults.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from confluent_kafka import KafkaException

from connectors.clock import SystemClock
from connectors.local_brokers import Brokers, Leadership
from streams.cli.audit_faults import CLUSTER_FAULTS, WORKER_FAULTS, Fault, Made
from streams.cli.audit_plan import Target
from streams.cli.audit_world import Workers, World
from streams.cli.output import note

#: How long a row waits for the brokers to have all replicas in sync again before it goes on.
WHOLE_SECONDS = 60.0
_LOOK_SECONDS = 0.2


class Injector:
    """Makes faults in a world."""

    def __init__(self, world: World, workers: Workers, targets: Sequence[Target], log: Path) -> None:
        self._world = world
        self._workers = workers
        self._targets = targets
        self._log = log
        self._clock = SystemClock()
        self._start = 0.0
        self.made: list[Made] = []

    async def run(self, faults: Sequence[Fault], start: float) -> None:
        """All of them; `start` is when time began (monotonic seconds)."""
        self._start = start
        rows: list[list[Fault]] = [
            [fault for fault in faults if fault.kind in WORKER_FAULTS],
            [fault for fault in faults if fault.kind in CLUSTER_FAULTS],
            *([fault] for fault in faults if fault.kind not in (*WORKER_FAULTS, *CLUSTER_FAULTS)),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                for row in rows:
                    group.create_task(self._row(row))
        except ExceptionGroup as failed:  # one is enough to say
            raise failed.exceptions[0] from None

    async def _row(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            await asyncio.sleep(max(0.0, self._start + fault.at_s - self._clock.monotonic()))
            await self._make(fault)

    async def _make(self, fault: Fault) -> None:
        start_ms = self._clock.now_ms()
        if fault.kind in WORKER_FAULTS:
            target, met = await self._worker(fault)
            endpoint = -1
        elif fault.kind in CLUSTER_FAULTS:
            target, met = await self._cluster(fault)
            endpoint = -1
        else:
            target, met, endpoint = await self._endpoint(fault)
        made = Made(fault, target, start_ms, self._clock.now_ms(), met, endpoint)
        self.made.append(made)
        with self._log.open("ab") as log:
            log.write(msgspec.json.encode(made) + b"\n")
        seconds = self._clock.monotonic() - self._start
        note(f"{seconds:6.1f} s  {fault.kind} {target} {met}".rstrip())

    # --- workers --------------------------------------------------------------------------------------------------

    async def _worker(self, fault: Fault) -> tuple[str, str]:
        workers = self._workers
        if fault.kind == "worker_join":
            name = await workers.join()
            return name, "works" if await workers.ready(name) else "stands by"
        while not workers.running:  # noqa: ASYNC110 - one that ended unasked is about to be started again
            await asyncio.sleep(_LOOK_SECONDS)
        name = workers.running[fault.target % len(workers.running)]
        match fault.kind:
            case "worker_kill":
                await workers.kill(name, fault.for_s)
                return name, f"away for {fault.for_s:.1f} s"
            case "worker_leave":
                return name, "in order" if await workers.leave(name) else "not in time, killed"
            case _:
                await workers.freeze(name, fault.for_s)
                return name, f"for {fault.for_s:.1f} s"

    # --- the cluster ----------------------------------------------------------------------------------------------

    async def _cluster(self, fault: Fault) -> tuple[str, str]:
        brokers = self._world.brokers
        if fault.kind == "cut_brokers":
            return await self._cut(fault)
        before = await asyncio.to_thread(brokers.leadership)
        if fault.kind == "leader_move":
            target = "all"
            try:
                await asyncio.to_thread(brokers.elect)
            except KafkaException as error:
                return target, f"refused: {error.args[0].str()}"
        else:
            broker = fault.target % brokers.count
            target = f"b{broker}"
            stop: Callable[[int], None] = brokers.kill if fault.kind == "broker_kill" else brokers.stop
            await asyncio.to_thread(stop, broker)
            await self._world.cutter.ask({"do": "refuse", "routes": [broker]})
            await asyncio.sleep(fault.for_s)
            await asyncio.to_thread(brokers.start, broker)
            await self._world.cutter.ask({"do": "mend", "routes": [broker]})
        after = await _whole(brokers, self._clock)
        if before is None or after is None:
            return target, ""
        moved = sum(after.leaders.get(place) != leader for place, leader in before.leaders.items())
        return target, f"{moved} leaders moved"

    async def _cut(self, fault: Fault) -> tuple[str, str]:
        cutter, count = self._world.cutter, self._world.brokers.count
        routes = list(range(count)) if fault.target < 0 else [fault.target % count]
        target = "all" if fault.target < 0 else f"b{routes[0]}"
        met = await cutter.ask({"do": fault.variant, "routes": routes})
        if fault.variant == "cut":
            return target, f"{met} connections reset"
        await asyncio.sleep(fault.for_s)
        await cutter.ask({"do": "mend", "routes": routes})
        done = {"refuse": "refused", "stall": "stalled"}[fault.variant]
        return target, f"{met} connections {done} for {fault.for_s:.1f} s"

    # --- endpoints ------------------------------------------------------------------------------------------------

    async def _endpoint(self, fault: Fault) -> tuple[str, str, int]:
        receiver = self._world.receiver
        if fault.kind == "cut_receiver":
            return "all", f"{await receiver.ask({'do': 'cut'})} connections reset", -1
        trouble = fault.variant or fault.kind.removeprefix("endpoint_")
        await receiver.ask({"do": "trouble", "endpoint": fault.target, "trouble": trouble})
        await asyncio.sleep(fault.for_s)
        await receiver.ask({"do": "well", "endpoint": fault.target})
        return self._targets[fault.target].id, f"{fault.variant} for {fault.for_s:.1f} s".strip(), fault.target


async def _whole(brokers: Brokers, clock: SystemClock) -> Leadership | None:
    """Wait until every partition has all its replicas in sync; how it is then, or after a minute."""
    deadline = clock.monotonic() + WHOLE_SECONDS
    while True:
        found = await asyncio.to_thread(brokers.leadership)
        if (found is not None and not found.lacking) or clock.monotonic() > deadline:
            return found
        await asyncio.sleep(_LOOK_SECONDS)
