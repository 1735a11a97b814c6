"""A thread for calls into librdkafka that block, and of which some never come back.

It does not know what is called (`publisher.py`).
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from connectors.clock import SystemClock

#: A call that takes so much longer than its time-out never ends: librdkafka waits for a coordinator of the group that
#: it has given up, and for that ignores the time-out (confluentinc/librdkafka issues 5456 and 5511).
_STUCK_S = 2.0
_LOOK_S = 1.0


class StuckError(Exception):
    """A call into librdkafka will not return; its thread and its producer are lost."""


class CallThread:
    """Runs what blocks, one call after another. A daemon: a call that never returns keeps no process from ending."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[None], Callable[[], object]] | None] = queue.SimpleQueue()
        self._clock = SystemClock()
        self._lock = threading.Lock()
        self._stuck_from: float | None = None  # monotonic seconds
        self._lost = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[..., object], *args: Any) -> None:
        """Call it there, and wait. StuckError when an earlier or this call is stuck sending offsets."""
        future: Future[None] = Future()
        self._calls.put((future, lambda: function(*args)))
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(_look)  # also when nobody waits any more
        while not (await asyncio.wait([waiting], timeout=_LOOK_S))[0]:
            if self._give_up():
                raise StuckError
        waiting.result()

    def may_stick(self, call: Callable[..., None], *args: Any) -> None:
        """Call, on the thread, what may get stuck; its last argument is its time-out, in seconds. StuckError when it
        returned after all, and was given up before."""
        with self._lock:
            self._stuck_from = self._clock.monotonic() + args[-1] + _STUCK_S
        try:
            call(*args)
        finally:
            with self._lock:  # from here on, or not at all, a transaction may be committed
                self._stuck_from = None
                lost = self._lost
        if lost:
            raise StuckError

    def _give_up(self) -> bool:
        with self._lock:
            self._lost = self._lost or (self._stuck_from is not None and self._clock.monotonic() > self._stuck_from)
            return self._lost

    def end(self) -> None:
        """After the calls that were asked for; not waited for when one is stuck."""
        self._calls.put(None)
        if not self._lost:
            self._thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                function()
            except BaseException as error:  # noqa: BLE001 - whoever asked gets it
                future.set_exception(error)
            else:
                future.set_result(None)


def _look(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
