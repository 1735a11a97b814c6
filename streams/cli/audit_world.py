"""The processes of an audit: brokers behind a cutter, a faulty receiver, and workers that are started again when they
end. All of them die with this one. What is done to them is `audit_inject.py`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from connectors.clock import SystemClock
from connectors.control import Control, helper
from connectors.faulty_receiver import FaultyEndpoint
from connectors.guardian import Guarded, guarded
from connectors.local_brokers import Brokers, choose_doors, local_brokers
from streams.cli.output import note
from streams.cli.running import CommandError

READY_SECONDS = 60.0
LEAVE_SECONDS = 30.0
#: A worker that ended by itself is started again, as whatever runs workers does; not for ever.
AGAIN_SECONDS = 0.5
ENDED_MAX = 40
_LOOK_SECONDS = 0.05


class World(msgspec.Struct, frozen=True):
    """What an audit works on."""

    folder: Path
    brokers: Brokers
    cutter: Control
    receiver: Control
    ports: list[int]  # of the endpoints
    posts: Path


@asynccontextmanager
async def open_world(folder: Path, brokers: int, endpoints: Sequence[FaultyEndpoint]) -> AsyncIterator[World]:
    """Everything but the workers, running. KafkaUnavailable, ControlError."""
    async with AsyncExitStack() as stack:
        file, posts = folder / "endpoints.json", folder / "posts"
        file.touch(mode=0o600)
        file.write_bytes(msgspec.json.encode(endpoints))
        receiver = await stack.enter_async_context(
            helper("connectors.faulty_receiver", str(file), str(posts), log=folder / "receiver.log")
        )
        doors = await asyncio.to_thread(choose_doors, brokers)
        cutter = await stack.enter_async_context(
            helper("connectors.cutter", *(str(each.clients) for each in doors), log=folder / "cutter.log")
        )
        running = local_brokers(folder, doors, advertised=cutter.said["ports"], progress=note)
        kafka = await asyncio.to_thread(running.__enter__)
        stack.push_async_callback(asyncio.to_thread, running.__exit__, None, None, None)
        yield World(folder, kafka, cutter.control, receiver.control, receiver.said["ports"], posts)


class _Worker:
    """One worker id, and the process that runs under it now, if one does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.starts = 0
        self.process: Guarded | None = None
        self.stack = ExitStack()
        self.log = Path()
        self.frozen = False
        self.wanted = True  # it is started again when it ends

    def ready(self) -> bool:
        return "\nready" in f"\n{_read(self.log)}"


class Workers:
    """Worker processes by id: `w1`, `w2`, ..."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        """`environment`: settings by name, as `bootstrap`."""
        self._folder = folder
        self._environment = environment
        self._clock = SystemClock()
        self._all: dict[str, _Worker] = {}
        #: (wall-clock ms, id, last line) of workers that ended unasked.
        self.ended: list[tuple[int, str, str]] = []

    @property
    def running(self) -> list[str]:
        """Ids that run, or stand still, now."""
        return [each.name for each in self._all.values() if each.process is not None]

    async def join(self) -> str:
        """Start one more; its id."""
        worker = _Worker(f"w{len(self._all) + 1}")
        self._all[worker.name] = worker
        await self._start(worker)
        return worker.name

    async def _start(self, worker: _Worker) -> None:
        worker.starts += 1
        worker.log = self._folder / f"{worker.name}.{worker.starts}.log"
        given = self._environment | {"worker_id": worker.name}
        assignments = [f"DISTRIBUTARY_{name.upper()}={value}" for name, value in given.items()]
        command = ["env", *assignments, sys.executable, "-m", "streams.cli", "worker", "--role", "all"]
        worker.stack = ExitStack()
        worker.process = worker.stack.enter_context(guarded(command, log=worker.log, grace_seconds=LEAVE_SECONDS))
        worker.frozen = False

    async def ready(self, name: str) -> bool:
        """Wait until it works; False when it does not within a minute (others may hold all partitions)."""
        worker = self._all[name]
        deadline = self._clock.monotonic() + READY_SECONDS
        while not worker.ready():
            if worker.process is None or self._clock.monotonic() > deadline:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True

    async def kill(self, name: str, then_wait_s: float) -> None:
        """kill -9, and start it again after a while."""
        worker = self._all[name]
        process, worker.process = worker.process, None
        assert process is not None
        process.signal(signal.SIGKILL)
        await asyncio.to_thread(worker.stack.close)
        await asyncio.sleep(then_wait_s)
        await self._start(worker)

    async def freeze(self, name: str, seconds: float) -> None:
        """Let it stand still for a while."""
        worker = self._all[name]
        process = worker.process
        assert process is not None
        worker.frozen = True
        process.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        process.signal(signal.SIGCONT)
        worker.frozen = False

    async def leave(self, name: str) -> bool:
        """SIGTERM, and wait for its end; whether it ended by itself and in time."""
        worker = self._all[name]
        process, worker.process = worker.process, None
        assert process is not None
        process.signal(signal.SIGTERM)
        deadline = self._clock.monotonic() + LEAVE_SECONDS
        while not process.ended() and self._clock.monotonic() < deadline:  # noqa: ASYNC110 - a process tells nobody
            await asyncio.sleep(_LOOK_SECONDS)
        in_time = process.ended()
        if not in_time:
            process.signal(signal.SIGKILL)
        await asyncio.to_thread(worker.stack.close)
        return in_time

    async def leave_all(self) -> bool:
        """All at once; whether all ended by themselves and in time."""
        return all(await asyncio.gather(*(self.leave(name) for name in self.running)))

    async def supervise(self) -> None:
        """Start again what ends unasked; never returns. CommandError when it goes on and on."""
        while True:
            for worker in list(self._all.values()):
                if worker.process is not None and worker.process.ended():
                    await self._ended(worker)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _ended(self, worker: _Worker) -> None:
        worker.process = None
        last = (_read(worker.log).split("\n")[:-1] or ["it said nothing"])[-1]
        self.ended.append((self._clock.now_ms(), worker.name, last))
        note(f"{worker.name} ended unasked: {last}", style="yellow")
        if len(self.ended) > ENDED_MAX:
            raise CommandError(f"workers end again and again; {worker.name} said: {last}")
        await asyncio.to_thread(worker.stack.close)
        await asyncio.sleep(AGAIN_SECONDS)
        await self._start(worker)

    def close(self) -> None:
        """Kill whatever runs. Blocks."""
        for worker in self._all.values():
            if worker.process is not None:
                worker.process.signal(signal.SIGKILL)
                worker.stack.close()
                worker.process = None


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.is_file() else ""
