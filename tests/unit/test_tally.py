"""The tally: of what piles up, one operation for a subscription and a window, counting every record once."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import codec
from schemas.delivery import FRESH, encode_dead_letter, encode_fresh, encode_tail
from schemas.endpoint import Operation, decode_operation
from schemas.errors import UndecodableError
from schemas.event import Event
from schemas.frame import Frame, Headers
from streams.core.ledger import SPAN_MAX, Ledger
from streams.quarantine import discarded, quarantined, resent
from streams.records import DeliverySchemas, Records
from streams.tally import GRACE_MS, Tally, dead_letter, quarantined_record
from tests.helpers import eventually_async
from tests.unit.stages import TOPICS, Consumed, World, delivery_of

MINUTE_MS = 60_000
SCHEMAS = DeliverySchemas(delivery_v1=77, delivery=78, attempt=79, dead_letter=80, operation=81)


def letter(subscription_id: str = "a", reason: str = "exhausted", tenant: str = "acme") -> bytes:
    tail = encode_tail(Event("evt_1", "order.created", tenant, 1, b"{}"), 1, "application/json", b"{}")
    fresh = encode_fresh(codec.wire_header(77), "dlv_" + "0" * 30, codec.put_string(subscription_id) + FRESH, tail)
    return encode_dead_letter(codec.wire_header(80), delivery_of(fresh), reason, "", 1)


class Site(World):
    def __init__(self, topic: str = TOPICS.dead) -> None:
        super().__init__()
        self.topic = topic
        dead = topic == TOPICS.dead
        self.stage = Tally(
            "dead_letters.written" if dead else "quarantine.grew",
            dead_letter if dead else quarantined_record,
            self.settler,
            self.clock,
            Records(TOPICS, SCHEMAS),
            window_ms=MINUTE_MS,
        )
        self.clock.advance_ms(MINUTE_MS - self.clock.now_ms() % MINUTE_MS)  # a window begins

    async def come(self, *values: bytes | None, **fields: Any) -> None:
        await self.stage.process(self.frame(self.topic, list(values), **fields))
        await self.settler.flush()

    async def after(self, ms: int) -> None:
        self.clock.advance_ms(ms)
        self.stage.look()
        await self.settler.flush()

    def told(self) -> list[Operation]:
        return [decode_operation(stored.value) for stored in self.written(TOPICS.operations)]


async def test_the_dead_letters_of_a_window_are_told_of_once_it_is_over() -> None:
    site = Site()
    start_ms = site.clock.now_ms()
    async with site.running():
        await site.come(letter("a"), letter("b", "gone", "other"), letter("a", "rejected"))
        await site.after(30_000)
        await site.come(letter("a"))
        await site.after(29_999 + GRACE_MS)
        assert site.told() == []
        assert site.position(TOPICS.dead) in (None, 0)  # nothing is finished that was not told of
        await site.after(1)
    first, second = site.told()
    assert first == Operation(
        kind="dead_letters.written",
        subscription_id="a",
        tenant="acme",
        at_ms=start_ms + 30_000,
        detail="2 exhausted, 1 rejected",
        count=3,
        partition=0,
        first_offset=0,
        last_offset=3,
    )
    assert (second.subscription_id, second.tenant, second.reason, second.count) == ("b", "other", "gone", 1)
    assert [stored.key for stored in site.written(TOPICS.operations)] == [b"a", b"b"]
    assert site.position(TOPICS.dead) == 4


async def test_a_record_of_a_later_window_ends_the_one_before() -> None:
    site = Site()
    now_ms = site.clock.now_ms()
    async with site.running():
        await site.come(letter("a"), timestamp_ms=now_ms - 6 * MINUTE_MS)
        await site.come(letter("a"), letter("a"), timestamp_ms=now_ms - 3 * MINUTE_MS)
        # Of another writer, whose clock is behind: it opens no window of its own.
        await site.come(letter("a"), timestamp_ms=now_ms - 5 * MINUTE_MS)
        assert [each.count for each in site.told()] == [1]
        await site.after(GRACE_MS - 1)
        assert len(site.told()) == 1  # more may be on their way
        await site.after(1)
    assert [(each.count, each.at_ms) for each in site.told()] == [
        (1, now_ms - 6 * MINUTE_MS),
        (3, now_ms - 3 * MINUTE_MS),
    ]


async def test_a_clock_ahead_of_ours_holds_no_window_open() -> None:
    site = Site()
    async with site.running():
        await site.come(letter("a"), timestamp_ms=site.clock.now_ms() + 3_600_000)
        await site.after(MINUTE_MS + GRACE_MS)
    assert [each.count for each in site.told()] == [1]


async def test_the_windows_of_a_ledger_that_is_full_end_early() -> None:
    site = Site()
    ledger = Ledger(0)
    held, value = 0, letter("a")
    async with site.running():
        for start in range(0, SPAN_MAX + 500, 500):
            records = [Consumed(start + at, value, site.clock.now_ms()) for at in range(500)]
            await site.stage.process(Frame(TOPICS.dead, 0, records, ledger))
            await site.settler.flush()
            held = max(held, ledger.pending)
        await site.after(MINUTE_MS + GRACE_MS)
    assert held <= SPAN_MAX
    assert sum(each.count for each in site.told()) == SPAN_MAX + 500
    assert len(site.told()) == 2


async def test_what_was_not_told_of_is_counted_by_who_comes_next() -> None:
    site = Site()
    async with site.running():
        await site.come(letter("a"), letter("b"))
        site.ledger(TOPICS.dead).close()
        again = [Consumed(at, letter(name), site.clock.now_ms()) for at, name in enumerate("aba")]
        ledger = Ledger(0)
        await site.stage.process(Frame(TOPICS.dead, 0, again, ledger))
        await site.after(MINUTE_MS + GRACE_MS)
        retiring = Ledger(3)
        retiring.retire()
        await site.stage.process(Frame(TOPICS.dead, 0, [Consumed(3, letter("a"), 1)], retiring))
        await site.after(MINUTE_MS + GRACE_MS)
    assert [(each.subscription_id, each.count) for each in site.told()] == [("a", 2), ("b", 1)]


async def test_offsets_finished_before_a_restart_are_not_counted_again() -> None:
    site = Site()
    before = Ledger(0)
    before.open([0, 1, 2])
    before.finish(1)
    async with site.running():
        records = [Consumed(at, letter("a"), site.clock.now_ms()) for at in range(3)]
        await site.stage.process(Frame(TOPICS.dead, 0, records, Ledger(*before.progress())))
        await site.after(MINUTE_MS + GRACE_MS)
    assert [(each.count, each.first_offset, each.last_offset) for each in site.told()] == [(2, 0, 2)]


async def test_what_is_no_dead_letter_is_passed_over() -> None:
    site = Site()
    async with site.running():
        await site.come(b"nonsense", None)
        assert site.position(TOPICS.dead) == 2
        await site.come(letter("a"))
        await site.after(MINUTE_MS + GRACE_MS)
    assert [each.count for each in site.told()] == [1]
    assert site.written(TOPICS.quarantine) == []


async def test_quarantined_records_are_counted_by_partition_and_markers_are_not() -> None:
    site = Site(TOPICS.quarantine)
    bad = UndecodableError("truncated", "short")
    outs = [quarantined(TOPICS.quarantine, "t.events", 0, Consumed(n, b"x"), bad, site.counters) for n in range(2)]
    again = resent((TOPICS.quarantine, 0, 0), ("t.events", 0, 0), None, b"x", [])[1]
    gone = discarded((TOPICS.quarantine, 0, 1), None, "cli:me", "why")
    async with site.running():
        for partition, out in ((0, outs[0]), (1, outs[1]), (0, outs[1]), (0, again), (0, gone)):
            headers: Headers | None = out[4]
            await site.come(out[2], partition=partition, headers=headers)
        assert site.position(TOPICS.quarantine) in (None, 0)
        await site.after(MINUTE_MS + GRACE_MS)
    told = [(each.kind, each.partition, each.count, each.reason, each.tenant) for each in site.told()]
    assert told == [("quarantine.grew", 0, 2, "truncated", ""), ("quarantine.grew", 1, 1, "truncated", "")]
    assert [stored.key for stored in site.written(TOPICS.operations)] == [None, None]


async def test_a_timer_looks_while_a_window_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.tally.GRACE_MS", 1)
    site = Site()
    async with site.running():
        await site.come(letter("a"))
        site.clock.advance_ms(MINUTE_MS + 1)
        await eventually_async(lambda: len(site.told()) == 1)
