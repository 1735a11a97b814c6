"""What every figure needs: processes with a role that end with their parent, topics, and the lines that are printed.

A role is a function `module:name` taking and returning JSON values, run in a process of its own so that its CPU seconds
are its own. This file measures nothing itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import math
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import uvloop
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.topics import Topics

ROLE_TIMEOUT_S = 240
WARM_PART = 0.2  # of the work, before measuring starts


def cpu_s() -> float:
    """User and system seconds of this process, all its threads."""
    return time.process_time()


class Meter:
    """What this process makes a CPU second, from the first fifth of `total` on."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._seen = self._first = 0
        self._started = 0.0

    def see(self, seen: int) -> bool:
        """How many there are by now; whether that is all."""
        self._seen = seen
        if not self._first and seen >= self._total * WARM_PART:
            self._first, self._started = seen, cpu_s()
        return seen >= self._total

    def per_cpu_s(self) -> float:
        """Of what came after the first fifth, up to now."""
        return (self._seen - self._first) / (cpu_s() - self._started)


class Role:
    """A role in its own process. `line()` reads what it reports; leaving the context ends it."""

    def __init__(self, function: str, timeout_s: float = ROLE_TIMEOUT_S, **arguments: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.harness", function, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._deadline = threading.Timer(timeout_s, self._process.kill)
        self._deadline.start()

    def line(self) -> Any:
        """The next JSON value that the role reports; RuntimeError when it ended instead."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            raise RuntimeError("a bench role ended early; its error stands above")
        return json.loads(text)

    def stop(self) -> Any:
        """Ask it to stop in order; what it reports then."""
        self._process.terminate()
        return self.line()

    def end(self) -> None:
        """End the process."""
        self._deadline.cancel()
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def role(function: str, timeout_s: float = ROLE_TIMEOUT_S, **arguments: Any) -> Iterator[Role]:
    """A running role."""
    running = Role(function, timeout_s, **arguments)
    try:
        yield running
    finally:
        running.end()


def run(function: str, **arguments: Any) -> Any:
    """Run a role to its first report."""
    with role(function, **arguments) as running:
        return running.line()


def report(value: Any) -> None:
    """From inside a role, to its parent."""
    print(json.dumps(value), flush=True)


def show(name: str, value: float, unit: str, *, ratio: float | None = None, vs: str | None = None) -> None:
    """The one line that a figure prints."""
    shown = f"{value:,.0f}".replace(",", "") if value >= 100 else f"{value:.2f}"
    tail = f" ratio={ratio:.2f} vs={vs}" if ratio is not None else ""
    print(f"bench {name} {shown} {unit}{tail}", flush=True)


def quantile(values: Iterable[float], part: float) -> float:
    """The smallest of the values that at least this part of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * part) - 1]


def drain_rate(arrivals: list[float], total: int, ended: float) -> float:
    """A second of the clock, from the first fifth of `total` to the last one; when some did not come, what came until
    `ended`. Times ascend."""
    first = int(total * WARM_PART)
    if len(arrivals) <= first:
        return 0.0
    return (len(arrivals) - first) / ((arrivals[-1] if len(arrivals) >= total else ended) - arrivals[first])


def note(text: str) -> None:
    """Progress and circumstances, on stderr."""
    print(text, file=sys.stderr, flush=True)


# --- Kafka ----------------------------------------------------------------------------------------


def new_topics(bootstrap: str, partitions: int) -> Topics:
    """All topics, under a prefix of their own."""
    topics = Topics(prefix=f"b{uuid.uuid4().hex[:6]}.", partitions=partitions)
    create(bootstrap, [(spec.name, spec.partitions, spec.config()) for spec in topics.specs()])
    return topics


def create(bootstrap: str, wanted: list[tuple[str, int, dict[str, str]]]) -> None:
    """Create topics and wait until they exist."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    new = [NewTopic(name, partitions, config=config) for name, partitions, config in wanted]
    for future in admin.create_topics(new).values():
        future.result()


def prompt(bootstrap: str) -> Producer:
    """A producer that sends at once."""
    return Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "partitioner": "murmur2_random"})


def filler(bootstrap: str) -> Producer:
    """A producer for filling topics."""
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 20,
            "compression.type": "none",  # what stock Faust can read as it is installed
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 2_000_000,
            "partitioner": "murmur2_random",
        }
    )


async def paced(rate: float, count: int) -> AsyncIterator[int]:
    """0, 1, 2, ... up to `count`, so many a second; one that is late does not put off the next."""
    begun = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        yield number


async def until(reached: Callable[[], bool]) -> None:
    """Look every few milliseconds: what is measured must not be told to notify."""
    while not reached():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


# --- inside a role ---


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _main() -> None:
    function, arguments = sys.argv[1], json.loads(sys.argv[2])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, _, name = function.partition(":")
    call = getattr(importlib.import_module(module), name)
    if inspect.iscoroutinefunction(call):
        loop_factory = asyncio.new_event_loop if arguments.pop("stock_loop", False) else uvloop.new_event_loop
        loop = loop_factory()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(call(**arguments))
    else:
        call(**arguments)
    sys.stdout.flush()
    os._exit(0)  # whatever tasks and threads a library left behind


if __name__ == "__main__":
    _main()
