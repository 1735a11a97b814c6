"""Publishing for others, on a Kafka in memory: once, whole or not at all, within bounds, and through an outage."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from connectors.ingest import ConflictError, Entry, Ingest, IngestLimits, Once, Published, UnavailableError, event_key
from connectors.memory import ManualClock, MemoryKafka, MemoryMember, MemoryPublisher
from connectors.seen import SeenWindow
from schemas.codec import own_schema
from schemas.errors import RecordTooLargeError
from schemas.event import Event, event_decoder
from schemas.seen import decode_seen
from schemas.topics import Topics
from tests.helpers import eventually_async

TOPICS = Topics()
SMALL_BYTES_MAX = 2_000


class NoFollower:
    """Nobody else publishes."""

    trouble = ""

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


class World:
    def __init__(self, record_bytes_max: int = SMALL_BYTES_MAX, **limits: Any) -> None:
        self.kafka = MemoryKafka({TOPICS.events: 4, TOPICS.seen: 1}, {TOPICS.events: record_bytes_max})
        self.publisher = MemoryPublisher(self.kafka, "ingest", lambda: MemoryMember("none"))
        self.clock = ManualClock()
        self.limits = IngestLimits(**limits)
        self.ingest = Ingest(
            self.publisher,
            SeenWindow(self.limits.window_ms, self.limits.marks_max),
            NoFollower(),
            TOPICS,
            event_schema=5,
            seen_schema=6,
            clock=self.clock,
            limits=self.limits,
        )

    def ids(self) -> list[str]:
        decoder = event_decoder(own_schema("event.v3"))
        return [decoder.decode(each.value or b"", None, 0).id for each in self.kafka.records[TOPICS.events]]

    def entry(self, event_id: str, digest: bytes = b"d", **fields: Any) -> Entry:
        event = Event(event_id, "a", "acme", 1, **{"data": b"{}"} | fields)
        return self.ingest.entry(event, Once(event_key("acme", event_id), digest, event_id))

    def plain(self, event_id: str, data: bytes = b"{}") -> Entry:
        return self.ingest.entry(Event(event_id, "a", "acme", 1, data))

    async def waiting(self, records: int) -> None:
        await eventually_async(lambda: self.ingest.queued == records)


@contextlib.asynccontextmanager
async def world(**limits: Any) -> AsyncIterator[World]:
    made = World(**limits)
    await made.ingest.start()
    try:
        yield made
    finally:
        await made.ingest.close()


async def test_an_event_and_that_it_was_seen_are_one_transaction() -> None:
    async with world() as here:
        assert await here.ingest.publish([here.entry("e1", subject="s"), here.plain("e2")]) == Published()
        assert here.publisher.transactions == 1
        assert sorted(here.ids()) == ["e1", "e2"]
        assert {each.key for each in here.kafka.records[TOPICS.events]} == {b"s", b"acme"}
        (seen,) = here.kafka.records[TOPICS.seen]
        assert (seen.key, decode_seen(seen.value).id) == (b"acme/e1", "e1")


async def test_a_repetition_is_not_written_again_and_another_content_is_refused() -> None:
    async with world() as here:
        await here.ingest.publish([here.entry("e1")])
        again = await here.ingest.publish([here.entry("e1"), here.entry("e2"), here.entry("e2")])
        assert again == Published(duplicates=frozenset({0, 2}))
        assert await here.ingest.publish([here.entry("e1")]) == Published(duplicates=frozenset({0}))
        with pytest.raises(ConflictError) as refused:
            await here.ingest.publish([here.plain("e3"), here.entry("e1", b"other")])
        assert refused.value.positions == (1,)
        with pytest.raises(ConflictError) as refused:
            await here.ingest.publish([here.entry("e4"), here.entry("e4", b"other")])
        assert refused.value.positions == (1,)
        assert await here.ingest.publish([here.entry("e1", b"")]) == Published(duplicates=frozenset({0}))
        assert here.ids() == ["e1", "e2"]
        assert here.publisher.transactions == 2


async def test_a_request_with_a_key_is_answered_as_the_first_time() -> None:
    async with world() as here:
        first, second = Once(b"?acme/k", b"d", "base1"), Once(b"?acme/k", b"d", "base2")
        assert await here.ingest.publish([here.plain("e1")], first) == Published("base1")
        assert await here.ingest.publish([here.plain("e2")], second) == Published("base1", True, frozenset({0}))
        with pytest.raises(ConflictError) as refused:
            await here.ingest.publish([here.plain("e3")], Once(b"?acme/k", b"other", "base3"))
        assert refused.value.positions == ()
        assert here.ids() == ["e1"]


async def test_what_is_repeated_while_it_is_being_written_waits_for_the_first() -> None:
    async with world() as here:
        here.kafka.answers.clear()
        calls = [asyncio.create_task(here.ingest.publish([here.entry("e1")])) for _ in range(20)]
        calls.append(asyncio.create_task(here.ingest.publish([here.entry("e1"), here.entry("e2")])))
        await here.waiting(2)
        with pytest.raises(ConflictError):
            await here.ingest.publish([here.entry("e1", b"other")])
        here.kafka.answers.set()
        answers = await asyncio.gather(*calls)
        assert [len(each.duplicates) for each in answers] == [0] + [1] * 20
        assert sorted(here.ids()) == ["e1", "e2"]


async def test_what_comes_while_a_transaction_is_on_its_way_is_one_group() -> None:
    async with world() as here:
        here.kafka.answers.clear()
        first = asyncio.create_task(here.ingest.publish([here.plain("e0")]))
        await here.waiting(1)
        more = [asyncio.create_task(here.ingest.publish([here.plain(f"e{n}")])) for n in range(1, 50)]
        await here.waiting(50)
        here.kafka.answers.set()
        await asyncio.gather(first, *more)
        assert here.publisher.transactions == 2
        assert here.ids() == [f"e{n}" for n in range(50)]


async def test_through_an_outage_nothing_is_half_written_and_a_retry_makes_one_event() -> None:
    async with world(wait_s=0.05) as here:
        here.kafka.answers.clear()
        with pytest.raises(UnavailableError, match="may yet take it") as refused:
            await here.ingest.publish([here.entry("e1"), here.entry("e2")])
        assert refused.value.maybe
        with pytest.raises(UnavailableError, match="nothing was written") as refused:  # still in the queue: taken out
            await here.ingest.publish([here.entry("e3")])
        assert not refused.value.maybe
        with pytest.raises(UnavailableError, match="not yet taken what this repeats"):
            await here.ingest.publish([here.entry("e1")])
        here.kafka.answers.set()
        answers = [await here.ingest.publish([here.entry(each)]) for each in ("e1", "e2", "e3")]
        assert [len(each.duplicates) for each in answers] == [1, 1, 0]
        assert sorted(here.ids()) == ["e1", "e2", "e3"]


async def test_what_waits_is_bounded() -> None:
    async with world(queue_records_max=10) as here:
        here.kafka.answers.clear()
        large = asyncio.create_task(here.ingest.publish([here.plain(f"e{n}") for n in range(20)]))
        await here.waiting(20)  # a call by itself may be larger
        with pytest.raises(UnavailableError, match="more events wait for Kafka than are kept"):
            await here.ingest.publish([here.plain("f")])
        here.kafka.answers.set()
        await large
        await here.ingest.publish([here.plain("f")])
        assert len(here.ids()) == 21


async def test_bytes_that_wait_are_bounded() -> None:
    async with world(queue_bytes_max=1_000) as here:
        here.kafka.answers.clear()
        large = asyncio.create_task(here.ingest.publish([here.plain("e", b'"' + b"x" * 900 + b'"')]))
        await here.waiting(1)
        with pytest.raises(UnavailableError, match="more events wait"):
            await here.ingest.publish([here.plain("f", b'"' + b"x" * 100 + b'"')])
        here.kafka.answers.set()
        await large


async def test_a_record_that_the_topic_does_not_take_fails_its_own_call_only() -> None:
    async with world() as here:
        here.kafka.answers.clear()
        first = asyncio.create_task(here.ingest.publish([here.plain("e0")]))
        await here.waiting(1)
        large = b'"' + b"x" * SMALL_BYTES_MAX + b'"'
        tasks = [
            asyncio.create_task(here.ingest.publish([each]))
            for each in (here.entry("e1"), here.entry("e2", data=large), here.entry("e3"))
        ]
        await here.waiting(7)
        here.kafka.answers.set()
        answers = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert [type(each) for each in answers] == [Published, Published, RecordTooLargeError, Published]
        assert here.ids() == ["e0", "e1", "e3"]
        await here.ingest.publish([here.entry("e2")])  # nothing of it was remembered


async def test_who_loses_its_id_to_another_process_says_so_and_takes_no_more() -> None:
    async with world() as here:
        await MemoryPublisher(here.kafka, "ingest", lambda: MemoryMember("none")).start()
        with pytest.raises(UnavailableError, match="another worker uses"):
            await here.ingest.publish([here.entry("e1")])
        assert "another worker uses" in here.ingest.trouble
        with pytest.raises(UnavailableError, match="cannot write to Kafka any more"):
            await here.ingest.publish([here.entry("e1")])


async def test_a_stop_fails_what_waits() -> None:
    async with world() as here:
        here.kafka.answers.clear()
        taken = asyncio.create_task(here.ingest.publish([here.plain("e0")]))
        await here.waiting(1)
        waits = asyncio.create_task(here.ingest.publish([here.plain("e1")]))
        repeats = asyncio.create_task(here.ingest.publish([here.entry("e2")]))
        await here.waiting(4)
        joins = asyncio.create_task(here.ingest.publish([here.entry("e2")]))
        await asyncio.sleep(0)
        await here.ingest.close()
        for call in (taken, waits, repeats, joins):
            with pytest.raises(UnavailableError, match=r"stopped|could not be written"):
                await call
        assert here.ingest.trouble == ""
        assert here.ids() == []
