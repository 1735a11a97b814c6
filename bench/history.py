"""`history`: attempts a second from a real topic into SQLite, by the clock; and how long the questions take then.

A process of its own reads the topic and writes the database, as `distributary history` does, from the first attempt to
the last; Kafka answers on the same machine. The last fifth is counted apart, when indexes are largest. Of questions,
the slowest of many is shown: each asks for something else.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import harness
from bench.harness import cpu_s, report
from connectors.history.ingest import HistoryIngest, Retention
from connectors.history.store import Wanted
from connectors.history.stores import open_store
from schemas import codec
from schemas.delivery import FRESH, Attempt, decode_delivery, encode_attempt, encode_fresh, encode_tail
from schemas.event import Event
from schemas.ids import delivery_id
from schemas.topics import Topics
from streams.settings import Settings
from streams.wiring import make_registry, register_own_schemas

ATTEMPTS = 1_000_000
SUBSCRIPTIONS = 100
#: One attempt in so many fails, with a detail and an excerpt.
FAILED_IN = 20
T0 = 1_700_000_000_000
QUESTIONS = 50
FAILURES = ("retryable", "rejected", "exhausted")


def names(number: int) -> tuple[str, str]:
    """The event's id and the subscription's, of an attempt by its number."""
    return f"evt_{number // SUBSCRIPTIONS:020d}", f"sub_{number % SUBSCRIPTIONS:010d}"


def fill(bootstrap: str, count: int) -> Topics:
    """A topic of attempts as workers write them."""
    topics = harness.new_topics(bootstrap, 8)
    registry = make_registry(Settings(bootstrap=bootstrap, prefix=topics.prefix))
    header = codec.wire_header(asyncio.run(register_own_schemas(registry, topics)).attempt)
    producer = harness.filler(bootstrap)
    for number in range(count):
        event_id, subscription_id = names(number)
        at = T0 + number // 10
        event = Event(event_id, "order.created", "default", at, b"{}", f"o-{number % 997}")
        field = codec.put_string(subscription_id) + FRESH
        tail = encode_tail(event, at, "application/json", b"{}")
        one = decode_delivery(encode_fresh(header, delivery_id(event_id, subscription_id), field, tail))
        made = Attempt(1, "delivered", at + 40, 12_000 + number % 5_000, 200)
        if number % FAILED_IN == number // SUBSCRIPTIONS % FAILED_IN:  # of every subscription, in turn
            made = Attempt(1, "retryable", at + 40, 30_000, 503, "", "HTTP 503", b'{"error":"overloaded"}', at + 5_000)
        producer.produce(topics.attempts, encode_attempt(header, one, made), subscription_id)
        if number % 20_000 == 0:
            producer.poll(0)
    producer.flush()
    return topics


async def ingest(bootstrap: str, prefix: str, url: str, total: int) -> None:
    """A role: reads all of the topic; reports attempts a second, of the last fifth, and a CPU second."""
    settings = Settings(bootstrap=bootstrap, prefix=prefix)
    store = open_store(url, time.monotonic)
    stop = asyncio.Event()
    begun: list[float] = []
    made = HistoryIngest(
        {"bootstrap.servers": bootstrap},
        settings.topics.attempts,
        store,
        make_registry(settings).schema,
        Retention(10**13, 10**9),
        now_ms=lambda: T0,
        monotonic=time.monotonic,
        on_acquired=lambda: begun.append(time.monotonic()),
    )
    used = cpu_s()
    running = asyncio.create_task(made.run(stop))
    late = 0.0
    late_count = 0
    while made.stored < total and not running.done():
        if not late and made.stored >= total * 0.8:
            late, late_count = time.monotonic(), made.stored
        await asyncio.sleep(0.005)
    ended = time.monotonic()
    stop.set()
    await running
    await store.close()
    report([total / (ended - begun[0]), (made.stored - late_count) / (ended - late), total / (cpu_s() - used)])


async def ask(url: str, total: int) -> None:
    """A role: reports the count of all attempts, and the slowest of many questions of each kind, in ms."""
    store = open_store(url, time.monotonic)

    async def slowest(question: Callable[[int], Awaitable[int]], expected: int) -> float:
        worst = 0.0
        for number in range(QUESTIONS + 1):
            started = time.monotonic()
            count = await question(number * (total // QUESTIONS - 1) % total)
            if count != expected:
                raise RuntimeError(f"{count} attempts were found, not {expected}")
            if number:  # the first one opens the database
                worst = max(worst, time.monotonic() - started)
        return worst * 1000

    async def by_delivery(number: int) -> int:
        wanted = Wanted(delivery_id=delivery_id(*names(number)))
        return len((await store.search(wanted, limit=50)).attempts)

    async def failures(number: int) -> int:
        wanted = Wanted(subscription_id=names(number)[1], outcomes=FAILURES)
        return len((await store.search(wanted, limit=50)).attempts)

    lone, page = await slowest(by_delivery, 1), await slowest(failures, 50)
    count = 0
    before = None
    while True:
        found = await store.search(Wanted(), limit=20_000, before=before)
        count += len(found.attempts)
        before = found.next
        if before is None:
            break
    await store.close()
    report([count, lone, page])


def main(bootstrap: str) -> None:
    """Once: a million is long enough."""
    topics = fill(bootstrap, ATTEMPTS)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'history.db'}"
        rate, late, per_cpu_s = harness.run(
            "bench.history:ingest", bootstrap=bootstrap, prefix=topics.prefix, url=url, total=ATTEMPTS
        )
        count, lone, page = harness.run("bench.history:ask", url=url, total=ATTEMPTS)
    if count != ATTEMPTS:
        raise RuntimeError(f"{count} of {ATTEMPTS} attempts are in the history")
    harness.show("history", rate, "attempts/s")
    harness.show("history_last_fifth", late, "attempts/s")
    harness.show("history_cpu", per_cpu_s, "attempts/cpu_s")
    harness.show("history_delivery", lone, "ms")
    harness.show("history_failures", page, "ms")
