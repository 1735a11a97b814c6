"""Virtual time for tests of a stage: timers fire in their order, and nobody waits for them.

Time stands still while anything is ready, and then jumps to the next timer. For one process without sockets; the
simulation has its own, for many.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, ParamSpec

P = ParamSpec("P")
START_MS = 1_760_000_000_000
#: Turns of the loop in which no time passes.
TURNS_MAX = 100_000


class _Selector(selectors.BaseSelector):
    """Waits for nothing but time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._turns = 0
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if not ready:
            if timeout is None:
                raise AssertionError("nothing is ready and no timer is set: whoever waits, waits for ever")
            self.now += max(timeout, 0.0)
        self._turns = self._turns + 1 if timeout == 0 else 0
        assert self._turns < TURNS_MAX, "time stands still: somebody is busy without end"
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is virtual."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


class LoopClock:
    """The `Clock` port on the running loop's time."""

    def __init__(self, jitter: float = 0.0) -> None:
        self.next_jitter = jitter

    def now_ms(self) -> int:
        return START_MS + round(asyncio.get_running_loop().time() * 1_000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def jitter(self) -> float:
        return self.next_jitter


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that runs in virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    del run.__wrapped__  # or it would be taken for a coroutine function
    return run


def passing(seconds: float) -> Awaitable[None]:
    """Let virtual time pass."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    future: asyncio.Future[None] = loop.create_future()
    loop.call_later(seconds, _pass, future)
    return future


def _pass(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def until(condition: Callable[[], object], seconds: float = 60.0, message: str = "") -> None:
    """Until the condition holds; fails when it does not within this virtual time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, f"not within {seconds:g} virtual seconds: {message or condition}"
        await passing(0.02)
