"""A confluent_kafka consumer and the one thread that calls it.

confluent_kafka lets one thread into a consumer at a time, and a second one waits while it holds the interpreter's lock
(upstream pull request 2322), so everybody else asks the thread. This file does not know what is consumed.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer

logger = logging.getLogger(__name__)


class ConsumerThread:
    """Takes turns until halted, and makes the calls that others ask for between two of them."""

    def __init__(
        self,
        name: str,
        consumer: Consumer,
        turn: Callable[[Consumer], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """`turn(consumer)` must not take long, or calls and the halt wait; what it raises ends the thread and goes to
        `failed`. In the end the consumer is closed, which may run rebalance callbacks, here as well."""
        self.consumer = consumer
        self._turn = turn
        self._failed = failed
        self._calls: queue.SimpleQueue[tuple[Callable[[Consumer], Any], Future[Any]]] = queue.SimpleQueue()
        self._closing = threading.Lock()  # between the last look at the calls and the first refusal
        self._closed = False
        self.halted = threading.Event()
        self.turns = 0  # signs of life: turns taken, and looks at the calls while one waits
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Take the first turn."""
        self._thread.start()

    def call(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Have the thread call `function(consumer, *args)`, after all calls asked for before; not when the future is
        cancelled until then. RuntimeError, in the future, once the consumer is closed."""
        future: Future[Any] = Future()
        with self._closing:
            if self._closed:
                future.set_exception(RuntimeError("the consumer is closed"))
            else:
                self._calls.put((lambda consumer: function(consumer, *args), future))
        return future

    def serve(self) -> None:
        """Make the calls that were asked for. On the thread only: before each turn, and where a turn waits."""
        self.turns += 1
        while not self._calls.empty():
            call, future = self._calls.get()
            if not future.set_running_or_notify_cancel():  # nobody waits any more
                continue
            try:
                future.set_result(call(self.consumer))
            except Exception as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)

    @property
    def name(self) -> str:
        return self._thread.name

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def halt(self) -> None:
        """Take no more turns; `join` waits for the consumer to be closed."""
        self.halted.set()

    def join(self) -> None:
        """Wait for the end; at once when it was never started."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self.halted.is_set():
                self.serve()
                self._turn(self.consumer)
        except Exception as error:  # noqa: BLE001 - the thread's last word must reach the app
            self._failed(error)
        self.halted.set()
        try:
            self.consumer.close()
        except Exception as error:  # noqa: BLE001 - nothing is left to do
            logger.warning("%s: closing the consumer failed: %s", self._thread.name, error)
        with self._closing:
            self._closed = True
        while not self._calls.empty():
            _, future = self._calls.get()
            if future.set_running_or_notify_cancel():
                future.set_exception(RuntimeError("the consumer is closed"))
