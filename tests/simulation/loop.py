"""Virtual time: one scheduler, and an event loop for each simulated process that runs on it.

A process is stopped by stopping its loop: killed, its callbacks and timers vanish wherever they stood; frozen, they
wait until it is thawed, and find that time has passed. Time stands still while anything is ready, and then jumps to the
next timer. This file knows nothing of Kafka or of the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from asyncio import events
from collections import deque
from collections.abc import Callable
from contextvars import Context
from heapq import heappop, heappush
from typing import Any, TypeVarTuple, Unpack

Ts = TypeVarTuple("Ts")


class StuckError(AssertionError):
    """Nothing is ready and no timer is set: whoever waits, waits for ever."""


class Scheduler:
    """Runs the callbacks of all loops, one at a time, in an order that depends on nothing but what was scheduled."""

    def __init__(self) -> None:
        #: Virtual seconds since the start.
        self.now = 0.0
        self.steps = 0
        #: Set by whoever finds something wrong inside a process, where an exception would be the process's own.
        self.failure: BaseException | None = None
        self._ready: deque[tuple[VirtualLoop, asyncio.Handle]] = deque()
        # (when, number, loop or None for the world's own, handle or callback, the callback's arguments)
        self._timers: list[tuple[float, int, VirtualLoop | None, Any, tuple[Any, ...]]] = []
        self._numbers = itertools.count()

    def after(self, delay_s: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        """Call from outside of every process, after this time. An exception ends the run."""
        heappush(self._timers, (self.now + delay_s, next(self._numbers), None, callback, args))

    def soon(self, loop: VirtualLoop, handle: asyncio.Handle) -> None:
        """In this loop, at its next turn."""
        self._ready.append((loop, handle))

    def at(self, loop: VirtualLoop, timer: asyncio.TimerHandle) -> None:
        """In this loop, when it is time."""
        heappush(self._timers, (timer.when(), next(self._numbers), loop, timer, ()))

    def run(self, until: Callable[[], object], *, seconds_max: float) -> bool:
        """Run until the condition holds, looked at whenever time is about to move; False when `seconds_max` was
        reached first. Raises `failure`, and StuckError when nothing can happen any more."""
        ready = self._ready
        enter = events._set_running_loop
        while True:
            while ready:
                loop, handle = ready.popleft()
                if loop.state != "running":
                    if loop.state == "frozen":
                        loop.deferred.append(handle)
                    continue
                if loop.fuse is not None and loop.burn():
                    ready.appendleft((loop, handle))
                    continue
                if not handle.cancelled():
                    self.steps += 1
                    enter(loop)
                    handle._run()
                    enter(None)
                    if self.failure is not None:
                        raise self.failure
            if until():
                return True
            if not self._advance(seconds_max):
                return False

    def _advance(self, seconds_max: float) -> bool:
        """Move time to the next timer that is not cancelled, and make ready what is due then."""
        timers = self._timers
        while timers:
            when, _, loop, what, args = timers[0]
            if loop is not None and (what.cancelled() or loop.state == "dead"):
                heappop(timers)
                continue
            if when > seconds_max:
                self.now = max(self.now, seconds_max)
                return False
            heappop(timers)
            self.now = max(self.now, when)
            if loop is None:
                what(*args)
                if self.failure is not None:
                    raise self.failure
            else:
                self._ready.append((loop, what))
            return True
        raise StuckError(f"at {self.now:.3f} s nothing is ready and nothing is scheduled")


class VirtualLoop(asyncio.BaseEventLoop):
    """The event loop of one process. It is never run by itself: the scheduler calls what it is told to call."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.state = "new"
        super().__init__()
        self.state = "running"  # or frozen, or dead
        self.deferred: list[asyncio.Handle] = []
        #: Called with what asyncio reports of callbacks and tasks: an exception that nobody caught.
        self.on_exception: Callable[[dict[str, Any]], None] | None = None
        #: How many callbacks may still run before `on_fuse`: a fault in the middle of something.
        self.fuse: int | None = None
        self.on_fuse: Callable[[], None] = self.kill
        self._scheduler = scheduler
        self._remains: set[asyncio.Task[Any]] = set()

    # --- what happens to processes ----------------------------------------------------------------

    def kill(self) -> None:
        """Nothing of this process happens any more. Its tasks are kept as they are until `bury`, since the collector
        would run their `finally` blocks."""
        if self.state != "dead":
            self.state = "dead"
            self.deferred.clear()
            self._remains = asyncio.all_tasks(self)

    def bury(self) -> None:
        """At the end of the world."""
        self.kill()
        for task in self._remains:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with contextlib.suppress(RuntimeError):  # it waits again where it is being ended
                task.get_coro().close()
        self._remains.clear()

    def freeze(self) -> None:
        """Nothing happens until `thaw`."""
        if self.state == "running":
            self.state = "frozen"

    def thaw(self) -> None:
        """Go on: with what came meanwhile, in the order in which it came."""
        if self.state == "frozen":
            self.state = "running"
            deferred, self.deferred = self.deferred, []
            for handle in deferred:
                self._scheduler.soon(self, handle)

    def burn(self) -> bool:
        """One callback is about to run: True when the fuse is at its end, and something has happened instead."""
        assert self.fuse is not None
        if self.fuse > 0:
            self.fuse -= 1
            return False
        self.fuse = None
        self.on_fuse()
        return True

    def __del__(self) -> None:
        """Nothing to complain of: a loop without sockets needs no closing."""

    # --- asyncio's loop ---------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds."""
        return self._scheduler.now

    def call_soon(  # type: ignore[override]  # the signature of typeshed, without its overloads
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._scheduler.soon(self, handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._scheduler.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._scheduler.at(self, timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays in the scheduler's heap and is passed over there."""

    def is_running(self) -> bool:
        return self.state == "running"

    def pause(self, seconds: float) -> asyncio.Future[None]:
        """What `asyncio.sleep` is elsewhere."""
        future: asyncio.Future[None] = self.create_future()
        self.call_later(seconds, _wake, future)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tell `on_exception`; a dead process has nothing to say."""
        if self.state != "dead" and self.on_exception is not None:
            self.on_exception(context)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
