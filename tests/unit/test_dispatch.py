"""The dispatch stage on fakes: what becomes of each delivery, which bounds hold, what a lost partition leaves."""

from __future__ import annotations

import asyncio
import datetime
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson
import pytest
import standardwebhooks

from connectors.memory import Endpoint, MemoryEndpointTable, MemoryLogReader, MemorySender, Stored
from schemas import codec
from schemas.codec import put_string
from schemas.delivery import (
    FRESH,
    Delivery,
    Try,
    Wire,
    dead_letter_schema,
    decode_delivery,
    encode_delivery,
    encode_fresh,
    encode_tail,
)
from schemas.endpoint import url_hash
from schemas.event import Event
from schemas.frame import Frame, OffsetLedger
from schemas.ids import delivery_id
from schemas.post import PostResult
from schemas.sealing import Keyring, opened, sealed
from streams.core.formats import CLOUDEVENTS_BATCH
from streams.core.ledger import Ledger
from streams.core.parked import ParkedLog, finished_by
from streams.dispatch import Dispatch
from streams.dispatch_state import DispatchLimits
from streams.records import DeliverySchemas
from tests.helpers import eventually_async
from tests.unit.stages import SECRET, TOPICS, Consumed, World, read, subscription, turns, why_quarantined

SCHEMAS = DeliverySchemas(delivery_v1=11, delivery=16, attempt=12, dead_letter=13, endpoint_state=14, operation=15)
WIRE = Wire(codec.wire_header(SCHEMAS.delivery_v1), codec.wire_header(SCHEMAS.delivery))
FIRST = TOPICS.deliveries
OK = PostResult(204, 1_500)
REFUSED = PostResult(0, 70, "connect_failed", "Nobody listens there.")
RECEIVED_MS = 1_759_999_999_000


def hanging(posted: object) -> PostResult | None:
    return None


class Stage(World):
    """A dispatch stage with a sender whose endpoint is a function."""

    def __init__(self, endpoint: Endpoint = lambda posted: OK, *, backlog: int = 20_000, **limits: Any) -> None:
        super().__init__(backlog_records_max=backlog)
        self.sender = MemorySender(endpoint)
        self.held: set[tuple[str, int]] = set()
        self.endpoints = MemoryEndpointTable()
        self.reader = MemoryLogReader(self.kafka, TOPICS.parked)
        self._followed = 0
        self.keyring = Keyring({})
        self.stage = Dispatch(
            TOPICS,
            self.table,
            self.endpoints,
            self.sender,
            self.reader,
            self.settler,
            self.clock,
            self.counters,
            SCHEMAS,
            hold=lambda topic, partition: self.held.add((topic, partition)),
            release=lambda topic, partition: self.held.discard((topic, partition)),
            ledger=lambda topic, partition: self._ledgers.get((topic, partition)),
            opener=lambda subscription: opened(subscription, self.keyring),
            limits=DispatchLimits(**limits),
        )

    async def admit(self, *values: bytes | None, topic: str = FIRST, partition: int = 0, **how: Any) -> None:
        await asyncio.wait_for(self.stage.admit(self.frame(topic, list(values), partition=partition, **how)), 10)

    def ledger(self, topic: str, partition: int = 0) -> OffsetLedger:
        if topic == TOPICS.parked:
            return self._ledgers.setdefault((topic, partition), ParkedLog(0))
        return super().ledger(topic, partition)

    async def settled(self) -> None:
        """Let answers come and be settled, and the log be followed; POSTs of a hanging endpoint stay."""
        while True:
            await turns()
            await self.settler.flush()
            await turns()
            new = self.written(TOPICS.parked)[self._followed :]
            if not new:
                return
            self._followed += len(new)
            for stored in new:
                record = Consumed(stored.offset, stored.value, self.clock.now_ms(), stored.key, stored.headers)
                ledger = self.ledger(TOPICS.parked, stored.partition)
                await self.stage.admit(Frame(TOPICS.parked, stored.partition, [record], ledger))

    def parked(self) -> list[Stored]:
        """The parked deliveries that are not finished."""
        written = self.written(TOPICS.parked)
        marks = [(stored.partition, finished_by(stored.headers)) for stored in written if stored.value is None]
        finished = {(partition, mark[0]) for partition, mark in marks if mark is not None}
        return [one for one in written if one.value is not None and (one.partition, one.offset) not in finished]

    def attempts(self) -> list[dict[str, Any]]:
        return [read(stored, codec.own_schema("attempt.v1")) for stored in self.written(TOPICS.attempts)]

    def dead(self) -> list[dict[str, Any]]:
        return [read(stored, dead_letter_schema()) for stored in self.written(TOPICS.dead)]

    def tier(self, name: str) -> list[Stored]:
        return self.written(f"{TOPICS.deliveries}.retry.{name}")

    def posted_ids(self) -> list[str]:
        return [posted.headers["webhook-id"] for posted in self.sender.posted]


def fresh(number: int = 1, subscription_id: str = "sub_1", *, body: bytes = b"", **event: Any) -> bytes:
    made = Event(f"evt_{number}", "order.created", "default", 1_700_000_000_000, b'{"n":1}', **event)
    tail = encode_tail(made, RECEIVED_MS, "application/json", body or b'{"n":%d}' % number)
    identifier = delivery_id(made.id, subscription_id)
    return encode_fresh(WIRE.v1, identifier, put_string(subscription_id) + FRESH, tail)


def with_headers(number: int = 1, body: bytes = b"{}", content_type: str = "application/json", **sent: str) -> bytes:
    """A delivery of version 2."""
    made = Event(f"evt_{number}", "order.created", "default", 1_700_000_000_000, b"")
    headers = tuple((name.replace("_", "-"), value) for name, value in sent.items())
    tail = encode_tail(made, RECEIVED_MS, content_type, body, headers)
    return encode_fresh(WIRE.v2, delivery_id(made.id, "sub_1"), put_string("sub_1") + FRESH, tail)


def tried(number: int = 1, subscription_id: str = "sub_1", **fields: Any) -> bytes:
    delivery = msgspec.structs.replace(decode_delivery(fresh(number, subscription_id)), **fields)
    return encode_delivery(WIRE, delivery)


def only(stored: Sequence[Stored]) -> Delivery:
    (one,) = stored
    assert codec.wire_schema_id(one.value) == SCHEMAS.delivery_v1
    return decode_delivery(one.value or b"")


# --- one delivery -----------------------------------------------------------------------------------------------------


async def test_a_delivery_is_posted_signed_logged_and_finished() -> None:
    world = Stage()
    world.table.put(subscription(headers={"X-Team": "blue"}))
    now_ms = world.clock.now_ms()
    async with world.running():
        await world.admit(fresh(1, traceparent="00-1-2-01", subject="o/1"))
        await world.settled()
    (posted,) = world.sender.posted
    identifier = delivery_id("evt_1", "sub_1")
    moment = datetime.datetime.fromtimestamp(now_ms // 1000, tz=datetime.UTC)
    assert posted.url == "https://sub-1.example/hook"
    assert posted.body == b'{"n":1}'
    assert posted.headers == {
        "X-Team": "blue",
        "user-agent": "Distributary",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "webhook-id": identifier,
        "webhook-timestamp": str(now_ms // 1000),
        "webhook-signature": standardwebhooks.Webhook(SECRET).sign(identifier, moment, '{"n":1}'),
        "traceparent": "00-1-2-01",
    }
    (stored,) = world.written(TOPICS.attempts)
    assert stored.key == b"sub_1"
    assert codec.wire_schema_id(stored.value) == SCHEMAS.attempt
    assert world.attempts() == [
        {
            "delivery_id": identifier,
            "subscription_id": "sub_1",
            "event_id": "evt_1",
            "event_type": "order.created",
            "tenant": "default",
            "event_time_ms": 1_700_000_000_000,
            "received_ms": RECEIVED_MS,
            "subject": "o/1",
            "attempt": 1,
            "outcome": "delivered",
            "started_ms": now_ms,
            "duration_us": 1_500,
            "status": 204,
            "cause": "",
            "detail": "",
            "excerpt": b"",
            "due_ms": 0,
        }
    ]
    assert world.position(FIRST) == 1
    assert world.counters == {"delivered": 1}
    assert world.publisher.transactions == 1


async def test_a_delivery_s_headers_are_sent_and_those_of_the_subscription_win() -> None:
    world = Stage()
    world.table.put(subscription(headers={"CE-Source": "/mine"}))
    async with world.running():
        await world.admit(with_headers(ce_id="1", ce_source="/shop", webhook_version="3"))
        await world.settled()
    (posted,) = world.sender.posted
    sent = {name: posted.headers.get(name) for name in ("ce-id", "CE-Source", "ce-source", "webhook-version")}
    assert sent == {"ce-id": "1", "CE-Source": "/mine", "ce-source": None, "webhook-version": "3"}


async def test_deliveries_of_both_versions_are_sent_and_kept_as_they_are() -> None:
    """Workers of two releases run side by side: what the older one can read, the newer one goes on writing."""
    world = Stage(lambda posted: REFUSED)
    world.table.put(subscription(retry_schedule_ms=(5_000,)))
    async with world.running():
        await world.admit(fresh(1), with_headers(2, ce_id="2"))
        await world.settled()
        old, new = sorted(world.tier("5s"), key=lambda one: codec.wire_schema_id(one.value))
        assert [codec.wire_schema_id(one.value) for one in (old, new)] == [SCHEMAS.delivery_v1, SCHEMAS.delivery]
        assert decode_delivery(old.value or b"").attempt == 1
        again = decode_delivery(new.value or b"", 2)
        assert (again.attempt, again.headers) == (1, (("ce-id", "2"),))
        written_ms = world.clock.now_ms()
        world.clock.advance_ms(6_000)
        await world.admit(old.value, new.value, topic=f"{TOPICS.deliveries}.retry.5s", timestamp_ms=written_ms)
        await world.settled()
    dead = world.dead()
    assert [(one["delivery"]["event_id"], one["delivery"]["headers"]) for one in dead] == [
        ("evt_1", {}),
        ("evt_2", {"ce-id": "2"}),
    ]
    assert [posted.headers.get("ce-id") for posted in world.sender.posted] == [None, "2", None, "2"]


async def test_deliveries_of_both_versions_are_parked_and_sent_from_the_log() -> None:
    world = Stage()
    world.table.put(subscription(state="paused"))
    async with world.running():
        await world.admit(fresh(1), with_headers(2, ce_id="2"))
        await world.settled()
        assert sorted(codec.wire_schema_id(one.value) for one in world.parked()) == [
            SCHEMAS.delivery_v1,
            SCHEMAS.delivery,
        ]
        world.table.put(subscription())
        await eventually_async(lambda: len(world.sender.posted) == 2)
        await world.settled()
    assert {posted.headers["webhook-id"]: posted.headers.get("ce-id") for posted in world.sender.posted} == {
        delivery_id("evt_1", "sub_1"): None,
        delivery_id("evt_2", "sub_1"): "2",
    }
    assert not world.parked()


async def test_a_batch_takes_what_has_the_same_headers_and_nothing_that_stands_for_one_event() -> None:
    world = Stage()
    world.table.put(subscription(batch_max=10, max_in_flight=1))
    body = b'{"type":"order.created"}'
    async with world.running():
        await world.admit(
            with_headers(1, body, webhook_version="1"),
            with_headers(2, body, webhook_version="1"),
            with_headers(3, body, webhook_version="2"),
            with_headers(4, b"\0\1", "application/avro", webhook_version="2"),
            with_headers(5, body, ce_id="5"),
            *(with_headers(n, b'[{"n":%d}]' % n, CLOUDEVENTS_BATCH, webhook_version="2") for n in (6, 7)),
        )
        for _ in range(5):
            await world.settled()
    posted = world.sender.posted
    events = [len(orjson.loads(one.body)["events"]) for one in posted[:2]]
    assert (events, [one.headers["webhook-version"] for one in posted[:2]]) == ([2, 1], ["1", "2"])
    assert [(one.body, one.headers["webhook-id"]) for one in posted[2:4]] == [
        (b"\0\1", delivery_id("evt_4", "sub_1")),
        (body, delivery_id("evt_5", "sub_1")),
    ]
    (last,) = posted[4:]
    assert (last.body, last.headers["content-type"]) == (b'[{"n":6},{"n":7}]', CLOUDEVENTS_BATCH)
    assert last.headers["webhook-id"].startswith("bat_")
    now = datetime.datetime.fromtimestamp(world.clock.now_ms() // 1000, tz=datetime.UTC)
    for one in posted:
        signature = standardwebhooks.Webhook(SECRET).sign(one.headers["webhook-id"], now, one.body.decode())
        assert one.headers["webhook-signature"] == signature
    assert len(world.attempts()) == 7


async def test_a_delivery_with_a_header_of_the_engine_s_own_is_quarantined() -> None:
    world = Stage()
    world.table.put(subscription())
    async with world.running():
        await world.admit(with_headers(webhook_signature="v1,forged"))
        await world.settled()
    assert world.counters["quarantined:bad_header"] == 1
    assert not world.sender.posted


async def test_a_failed_delivery_goes_to_the_tier_of_its_wait_with_its_memory() -> None:
    world = Stage(lambda posted: PostResult(503, 900, excerpt=b"busy" * 100, retry_after="7"))
    world.table.put(subscription(retry_schedule_ms=(5_000, 60_000)))
    now_ms = world.clock.now_ms()
    async with world.running():
        await world.admit(fresh(), partition=3)
        await world.settled()
    (stored,) = world.tier("5s")
    assert (stored.partition, stored.key) == (3, b"sub_1")
    later = only([stored])
    assert (later.attempt, later.due_ms, later.first_attempt_ms) == (1, now_ms + 7_000, now_ms)
    assert later.tries == (Try(now_ms, 900, 503, "", (b"busy" * 100)[:256]),)
    assert later.body == b'{"n":1}'
    (attempt,) = world.attempts()
    assert (attempt["attempt"], attempt["outcome"], attempt["status"]) == (1, "retryable", 503)
    assert attempt["due_ms"] == now_ms + 7_000
    assert attempt["excerpt"] == (b"busy" * 100)[:256]
    assert world.position(FIRST, 3) == 1
    assert world.counters == {"retried": 1}


async def test_a_delivery_is_tried_through_its_whole_schedule_and_then_given_up() -> None:
    answers = [REFUSED, PostResult(500, 20, excerpt=b"x"), PostResult(0, 30, "timeout", "15 s passed.")]
    world = Stage(lambda posted: answers[posted.number])
    world.clock.next_jitter = 0.5
    world.table.put(subscription(retry_schedule_ms=(1_000, 30_000)))
    starts = []
    async with world.running():
        starts.append(world.clock.now_ms())
        await world.admit(fresh(), partition=2)
        await world.settled()
        for tier, hold_ms, due_after_ms in (("1s", 1_000, 1_050), ("30s", 30_000, 31_500)):
            stored = world.tier(tier)[-1]
            assert only([stored]).due_ms == starts[-1] + due_after_ms
            written_ms = world.clock.now_ms()
            world.clock.advance_ms(due_after_ms)
            starts.append(world.clock.now_ms())
            topic = f"{TOPICS.deliveries}.retry.{tier}"
            await world.admit(stored.value, topic=topic, partition=stored.partition, timestamp_ms=written_ms)
            assert world.clock.now_ms() - written_ms >= hold_ms
            await world.settled()
            assert world.position(topic, 2) == 1
    assert [(one["attempt"], one["outcome"], one["status"], one["cause"]) for one in world.attempts()] == [
        (1, "retryable", 0, "connect_failed"),
        (2, "retryable", 500, ""),
        (3, "exhausted", 0, "timeout"),
    ]
    assert len(set(world.posted_ids())) == 1
    (letter,) = world.dead()
    assert (letter["reason"], letter["detail"], letter["dead_ms"]) == ("exhausted", "15 s passed.", starts[-1])
    delivery = letter["delivery"]
    assert (delivery["attempt"], delivery["first_attempt_ms"]) == (3, starts[0])
    assert [(one["started_ms"], one["duration_us"], one["status"], one["cause"]) for one in delivery["attempts"]] == [
        (starts[0], 70, 0, "connect_failed"),
        (starts[1], 20, 500, ""),
        (starts[2], 30, 0, "timeout"),
    ]
    assert world.counters == {"retried": 2, "dead:exhausted": 1}


@pytest.mark.parametrize(
    ("answer", "fields", "reason"),
    [
        (PostResult(410, 5), {}, "gone"),
        (PostResult(404, 5), {"reject_statuses": (404,)}, "rejected"),
        (PostResult(0, 5, "invalid_request", "A header."), {}, "invalid_endpoint"),
        (PostResult(500, 5), {"retry_schedule_ms": ()}, "exhausted"),
    ],
)
async def test_what_ends_a_delivery_at_its_first_attempt(
    answer: PostResult, fields: dict[str, Any], reason: str
) -> None:
    world = Stage(lambda posted: answer)
    world.table.put(subscription(**fields))
    async with world.running():
        await world.admit(fresh())
        await world.settled()
    (letter,) = world.dead()
    assert letter["reason"] == reason
    assert [one["status"] for one in letter["delivery"]["attempts"]] == [answer.status]
    assert [(one["attempt"], one["outcome"]) for one in world.attempts()] == [
        (1, "exhausted" if reason == "exhausted" else "rejected")
    ]
    assert world.counters - Counter({"endpoint.disabled": 1}) == {f"dead:{reason}": 1}
    assert world.position(FIRST) == 1


async def test_a_deleted_subscription_cancels_its_deliveries() -> None:
    world = Stage()
    async with world.running():
        await world.admit(tried(attempt=2))
        await world.settled()
    (attempt,) = world.attempts()
    assert (attempt["attempt"], attempt["outcome"], attempt["detail"]) == (
        2,
        "cancelled",
        "the subscription was deleted",
    )
    assert world.sender.posted == []
    assert world.position(FIRST) == 1
    assert world.counters == {"cancelled": 1}


async def test_a_paused_subscription_s_deliveries_wait_in_the_log_without_spending_an_attempt() -> None:
    world = Stage()
    world.table.put(subscription(state="paused"))
    memory = (Try(1, 2, 500),)
    async with world.running():
        await world.admit(tried(attempt=1, first_attempt_ms=1, tries=memory), partition=1)
        await world.settled()
        parked = only(world.parked())
        assert (parked.attempt, parked.due_ms, parked.first_attempt_ms) == (1, 0, 1)
        assert parked.tries == memory
        assert world.attempts() == []
        assert world.counters == {"parked": 1}
        world.table.put(subscription())
        await world.settled()
    assert [(one["attempt"], one["outcome"]) for one in world.attempts()] == [(2, "delivered")]
    assert world.parked() == []
    values = [stored.value is not None for stored in world.written(TOPICS.parked)]
    assert values.count(True) == 1  # written once, and never rewritten
    assert world.position(FIRST, 1) == 1


@pytest.mark.parametrize("verified_url", ["", url_hash("https://old.example/hook")])
async def test_nothing_is_sent_to_a_url_that_is_not_verified_until_it_is(verified_url: str) -> None:
    world = Stage()
    unverified = subscription(verification="challenge", verified_url=verified_url)
    world.table.put(unverified)
    async with world.running():
        await world.admit(fresh())
        await world.settled()
        assert world.counters == {"parked": 1}
        assert world.sender.posted == []
        world.table.put(msgspec.structs.replace(unverified, verified_url=url_hash(unverified.url)))
        await world.settled()
    assert [post.url for post in world.sender.posted] == [unverified.url]
    assert world.parked() == []


@pytest.mark.parametrize("mended", ["keys", "subscription"])
async def test_secrets_that_do_not_open_park_and_are_logged_once_without_them(
    mended: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = {"k1": bytes(32)}
    world = Stage()
    world.table.put(sealed(subscription(), Keyring(key), lambda: bytes(12)))
    async with world.running():
        for _ in range(2):
            await world.admit(fresh())
            await world.settled()
        assert world.counters == {"parked": 2}
        assert world.sender.posted == []
        if mended == "keys":
            world.stage.keys_changed()  # they are not there yet
            world.keyring = Keyring(key)
            world.stage.keys_changed()
        else:
            world.table.put(subscription())
        await world.settled()
    assert world.parked() == []
    assert len(world.sender.posted) == 2
    for posted in world.sender.posted:
        moment = datetime.datetime.fromtimestamp(int(posted.headers["webhook-timestamp"]), tz=datetime.UTC)
        signed = standardwebhooks.Webhook(SECRET).sign(posted.headers["webhook-id"], moment, posted.body.decode())
        assert posted.headers["webhook-signature"] == signed
    locked, opens = (record.getMessage() for record in caplog.records)
    assert locked.startswith(
        "sub_1: nothing is sent, its deliveries are parked: sub_1/secrets is sealed with the key 'k1'"
    )
    assert opens == "sub_1: its secrets open again"
    assert SECRET not in caplog.text


async def test_what_was_sealed_and_is_no_secret_parks_too(caplog: pytest.LogCaptureFixture) -> None:
    world = Stage()
    world.keyring = Keyring({"k1": bytes(32)})
    world.table.put(subscription(secrets=(world.keyring.seal("hush", "sub_1/secrets", bytes(12)),)))
    async with world.running():
        await world.admit(fresh())
        await world.settled()
    assert world.counters == {"parked": 1}
    assert "secrets: not whsec_" in caplog.text
    assert "hush" not in caplog.text


async def test_a_disabled_subscription_s_deliveries_are_dead_letters() -> None:
    world = Stage()
    world.table.put(subscription(state="disabled"))
    async with world.running():
        await world.admit(fresh())
        await world.settled()
    assert [letter["reason"] for letter in world.dead()] == ["disabled"]
    assert [(one["attempt"], one["outcome"]) for one in world.attempts()] == [(0, "rejected")]
    assert world.sender.posted == []


async def test_an_endpoint_that_the_sender_refuses_is_a_dead_letter_with_its_sentence() -> None:
    world = Stage()
    world.table.put(subscription(url="http://127.1/looks-like-a-number"))
    async with world.running():
        await world.admit(fresh(1), fresh(2, "sub_2"))
        world.table.put(subscription("sub_2"))
        await world.settled()
    (letter,) = world.dead()
    assert letter["reason"] == "invalid_endpoint"
    assert "IPv4" in letter["detail"]
    assert world.position(FIRST) == 2


async def test_what_cannot_be_decoded_is_quarantined_with_its_original_bytes() -> None:
    world = Stage()
    world.table.put(subscription())
    other_schema = b"\0\0\0\0\x63" + fresh()[5:]
    bad = [None, b"", b"{}...", other_schema, fresh()[:-2], fresh() + b"\0"]
    async with world.running():
        await world.admit(*bad, fresh(), partition=1, headers=[("a", b"1")])
        await world.settled()
    stored = world.written(TOPICS.quarantine)
    assert [one.value for one in stored] == bad
    assert {one.key for one in stored} == {b"key"}
    assert [why_quarantined(one)[:4] for one in stored] == [
        (reason, FIRST, 1, offset)
        for offset, reason in enumerate(["no_value", "truncated", "wrong_magic", "unknown_schema", "truncated", "avro"])
    ]
    assert all((one.headers or [])[0] == ("a", b"1") for one in stored)
    assert len(world.sender.posted) == 1
    assert world.position(FIRST, 1) == 7
    assert world.counters["quarantined:truncated"] == 2


# --- waiting ----------------------------------------------------------------------------------------------------------


async def test_a_delivery_due_within_the_smallest_hold_waits_in_the_worker() -> None:
    world = Stage()
    world.table.put(subscription())
    async with world.running():
        await world.admit(tried(attempt=1, due_ms=world.clock.now_ms() + 30))
        await turns()
        assert world.sender.posted == []
        await eventually_async(lambda: world.sender.posted)
        await world.settled()
    assert [one["attempt"] for one in world.attempts()] == [2]
    assert world.position(FIRST) == 1


async def test_a_delivery_released_early_hops_on() -> None:
    world = Stage()
    world.table.put(subscription())
    now_ms = world.clock.now_ms()
    value = tried(attempt=1, due_ms=now_ms + 6_500)
    async with world.running():
        await world.admit(value, topic=f"{FIRST}.retry.30s", partition=2, timestamp_ms=now_ms - 30_000)
        await world.settled()
    (stored,) = world.tier("5s")
    assert (stored.value, stored.partition) == (value, 2)
    assert world.sender.posted == []
    assert world.attempts() == []
    assert world.counters == {"hops": 1}
    assert world.position(f"{FIRST}.retry.30s", 2) == 1


async def test_a_tier_holds_its_records_as_long_as_its_name_says_and_pauses_meanwhile() -> None:
    world = Stage()
    world.table.put(subscription())
    topic = f"{FIRST}.retry.5s"
    now_ms = world.clock.now_ms()
    frame = world.frame(topic, [tried(1), tried(2), tried(3)])
    ages_ms = (6_000, 5_000, 4_980)
    frame.records = [Consumed(i, tried(i), now_ms - age_ms) for i, age_ms in enumerate(ages_ms)]
    async with world.running():
        await asyncio.wait_for(world.stage.admit(frame), 1)
        await world.settled()
        assert len(world.sender.posted) == 2
        assert world.held == {(topic, 0)}
        assert world.position(topic) == 2
        world.clock.advance_ms(20)
        await eventually_async(lambda: len(world.sender.posted) == 3)
        await world.settled()
    assert world.held == set()
    assert world.position(topic) == 3


async def test_a_full_ledger_holds_its_partition_and_releases_it_when_it_has_room() -> None:
    world = Stage(hanging, in_flight_max=1_000)
    world.table.put(subscription(max_in_flight=1_000))
    frame = world.frame(FIRST, [fresh(n) for n in range(300)])
    # 250 unfinished, and a gap as transaction markers leave it: no more may be opened.
    frame.records = [Consumed(n, fresh(n)) for n in range(250)] + [Consumed(n, fresh(n)) for n in range(30_000, 30_100)]
    async with world.running():
        await asyncio.wait_for(world.stage.admit(frame), 1)
        await turns()
        assert frame.ledger.full
        assert world.held == {(FIRST, 0)}
        before = len(world.sender.posted)
        assert 250 < before < 350
        for number in range(before):
            world.sender.answer(number, OK)
        await world.settled()
        assert len(world.sender.posted) == 350
        assert world.held == set()
        for number in range(before, 350):
            world.sender.answer(number, OK)
        await world.settled()
    assert world.position(FIRST) == 30_100


async def test_a_busy_worker_takes_the_rest_of_a_frame_later() -> None:
    world = Stage(hanging, admitted_max=10)
    world.table.put(subscription(max_in_flight=100))
    async with world.running():
        admitting = asyncio.create_task(world.admit(*(fresh(n) for n in range(25))))
        await turns()
        assert len(world.sender.posted) == 10
        assert not admitting.done()
        for start in (0, 10, 20):
            for number in range(start, min(start + 10, 25)):
                world.sender.answer(number, OK)
            await turns()
        await asyncio.wait_for(admitting, 5)
        await world.settled()
    assert world.position(FIRST) == 25
    assert len(set(world.posted_ids())) == 25


@pytest.mark.parametrize(("limits", "most"), [({"admitted_max": 10}, 21), ({"admitted_bytes_max": 5_000}, 70)])
async def test_a_settler_that_falls_behind_stops_admission(limits: dict[str, Any], most: int) -> None:
    world = Stage(**limits)
    world.table.put(subscription(max_in_flight=100))
    world.kafka.answers.clear()
    async with world.running():
        admitting = asyncio.create_task(world.admit(*(fresh(n, body=b"x" * 500) for n in range(100))))
        await turns()
        assert 10 <= len(world.sender.posted) <= most
        world.kafka.answers.set()
        await asyncio.wait_for(admitting, 5)
        await world.settled()
    assert world.position(FIRST) == 100


# --- lanes ------------------------------------------------------------------------------------------------------------


async def test_a_lane_has_as_many_places_as_its_subscription_says_and_the_worker_has_a_bound() -> None:
    world = Stage(hanging, in_flight_max=5)
    world.table.put(subscription("a", max_in_flight=2))
    world.table.put(subscription("b", max_in_flight=4))
    async with world.running():
        await world.admit(*(fresh(n, "a") for n in range(6)))
        assert world.stage.in_flight == 2
        await world.admit(*(fresh(n, "b") for n in range(6)))
        assert world.stage.in_flight == 5
        most = {"a": 0, "b": 0}
        flying = {"a": 0, "b": 0}
        names = {f"https://{name}.example/hook": name for name in "ab"}
        answered = 0
        while answered < 12:
            urls = [names[posted.url] for posted in world.sender.posted]
            flying = {name: urls[answered:].count(name) for name in "ab"}
            most = {name: max(most[name], flying[name]) for name in "ab"}
            assert world.stage.in_flight == sum(flying.values()) <= 5
            world.sender.answer(answered, OK)
            answered += 1
            await asyncio.sleep(0)  # what an answer frees is filled at the loop's next turn
        await world.settled()
        assert world.stage.in_flight == 0
    assert most == {"a": 2, "b": 4}
    assert world.position(FIRST) == 12


async def test_lanes_take_turns() -> None:
    world = Stage(hanging, in_flight_max=1)
    for name in "abc":
        world.table.put(subscription(name, max_in_flight=5))
    async with world.running():
        await world.admit(*(fresh(n, name) for name in "abc" for n in range(4)))
        for number in range(12):
            world.sender.answer(number, OK)
            await asyncio.sleep(0)  # what an answer frees is filled at the loop's next turn
        await world.settled()
    order = "".join(posted.url.removeprefix("https://")[0] for posted in world.sender.posted)
    assert len(order) == 12
    assert {order.count(name) for name in "abc"} == {4}
    assert not any(3 * name in order for name in "abc")  # two small ones in a turn
    assert sorted(order) == sorted("abc" * 4)


@pytest.mark.parametrize("answers", [0, 5], ids=["hanging", "crawling"])
async def test_a_lane_that_does_not_move_may_not_take_the_whole_worker(answers: int) -> None:
    """What it cannot serve soon is put aside without an attempt, and others are served."""
    world = Stage(lambda posted: None if "slow" in posted.url else OK, admitted_max=50, relief_after_s=0.2)
    world.table.put(subscription("slow", max_in_flight=2))
    world.table.put(subscription("well", max_in_flight=2))
    async with world.running():
        await world.admit(fresh(10, "well"), partition=1)  # a lane that is known, and idle while the worker fills
        await world.settled()
        slow = asyncio.create_task(world.admit(*(fresh(n, "slow") for n in range(200))))
        await turns()
        for number in range(1, answers + 1):
            world.sender.answer(number, OK)
            await turns()
        world.clock.advance_ms(1_000)
        await asyncio.wait_for(slow, 10)
        await world.admit(*(fresh(n, "well") for n in range(10)), partition=1)
        await eventually_async(lambda: world.counters["delivered"] == answers + 11)
        await world.settler.flush()
        # It keeps what flies, and in its queue as many as it may have in flight or serves in five seconds.
        kept = 2 + max(2, answers * 5)
        assert world.counters["parked"] == 200 - answers - kept
        parked = [decode_delivery(stored.value or b"") for stored in world.parked()]
        assert len(parked) == world.counters["parked"]
        assert {(one.attempt, one.due_ms, one.tries) for one in parked} == {(0, 0, ())}


async def test_lanes_that_move_are_not_put_aside_however_busy_the_worker_is() -> None:
    world = Stage(admitted_max=50, relief_after_s=0.0)
    for name in "ab":
        world.table.put(subscription(name, max_in_flight=2))
    async with world.running():
        await world.admit(*(fresh(n, "ab"[n % 2]) for n in range(2_000)))
        await world.settled()
    assert world.counters == {"delivered": 2_000}


async def test_a_lane_that_moves_again_is_bounded_no_more() -> None:
    world = Stage(hanging, admitted_max=20, relief_after_s=0.01)
    world.table.put(subscription(max_in_flight=2))
    async with world.running():
        admitted = asyncio.create_task(world.admit(*(fresh(n) for n in range(30))))
        await turns()
        world.clock.advance_ms(1_000)
        await asyncio.wait_for(admitted, 10)
        parked = world.counters["parked"]
        assert parked == 26
        world.clock.advance_ms(6_000)
        await world.admit(*(fresh(n) for n in range(30, 40)))
        assert world.counters["parked"] == parked + 10  # it has not moved since
        for number in range(100):
            world.sender.answer(number, OK)
            await world.settled()
        assert world.counters["delivered"] == 40
        world.clock.advance_ms(6_000)
        parked = world.counters["parked"]
        await world.admit(*(fresh(n) for n in range(40, 50)))
        assert world.counters["parked"] == parked


async def test_lanes_of_quiet_endpoints_are_forgotten() -> None:
    world = Stage(lanes_max=5)
    for n in range(20):
        world.table.put(subscription(f"s{n}"))
    async with world.running():
        for n in range(20):
            await world.admit(fresh(n, f"s{n}"))
            await world.settled()
    assert len(world.stage._lanes) <= 5
    assert world.position(FIRST) == 20


# --- changes of the table while a delivery waits in its lane ----------------------------------------------------------


async def queued(world: Stage, **fields: Any) -> None:
    """Two deliveries of sub_1: one in flight, one queued behind it."""
    world.table.put(subscription(max_in_flight=1, **fields))
    await world.admit(fresh(1), fresh(2))
    assert len(world.sender.posted) == 1


async def test_a_queued_delivery_uses_the_url_and_secret_of_its_start() -> None:
    world = Stage(hanging)
    new_secret = "whsec_bmV3ZXJuZXdlcm5ld2VybmV3ZXJuZXdlcm5ld2Vy"
    async with world.running():
        await queued(world)
        world.table.put(subscription(url="https://moved.example/x", secrets=(new_secret, SECRET), max_in_flight=1))
        world.sender.answer(0, OK)
        await turns()
        posted = world.sender.posted[1]
        assert posted.url == "https://moved.example/x"
        moment = datetime.datetime.fromtimestamp(int(posted.headers["webhook-timestamp"]), tz=datetime.UTC)
        assert posted.headers["webhook-signature"].split(" ") == [
            standardwebhooks.Webhook(secret).sign(posted.headers["webhook-id"], moment, posted.body.decode())
            for secret in (new_secret, SECRET)
        ]
        world.sender.answer(1, OK)
        await world.settled()
    assert world.position(FIRST) == 2


@pytest.mark.parametrize(
    ("change", "counter"),
    [
        ({"state": "paused"}, "parked"),
        ({"verification": "ping", "verified_url": url_hash("https://another.example/")}, "parked"),
        ({"state": "disabled"}, "dead:disabled"),
        ({"url": "http://1.2.3/"}, "dead:invalid_endpoint"),
        (None, "cancelled"),
    ],
)
async def test_a_queued_delivery_heeds_what_became_of_its_subscription(
    change: dict[str, Any] | None, counter: str
) -> None:
    world = Stage(hanging)
    async with world.running():
        await queued(world)
        if change is None:
            world.table.delete("sub_1")
        else:
            world.table.put(subscription(max_in_flight=1, **change))
        world.sender.answer(0, OK)
        await world.settled()
        assert len(world.sender.posted) == 1
        assert world.counters == {"delivered": 1, counter: 1}
    assert world.position(FIRST) == 2


@pytest.mark.parametrize(("state", "counter"), [("paused", "parked"), ("disabled", "dead:disabled")])
async def test_a_delivery_that_waits_for_its_due_time_heeds_it_too(state: str, counter: str) -> None:
    world = Stage()
    world.table.put(subscription())
    async with world.running():
        await world.admit(tried(attempt=1, due_ms=world.clock.now_ms() + 20))
        world.table.put(subscription(state=state))
        await eventually_async(lambda: world.counters)
        await world.settled()
    assert world.counters == {counter: 1}
    assert world.sender.posted == []


async def test_an_attempt_under_way_when_its_subscription_is_deleted_still_counts() -> None:
    world = Stage(hanging)
    async with world.running():
        world.table.put(subscription())
        await world.admit(fresh())
        world.table.delete("sub_1")
        world.sender.answer(0, PostResult(500, 1))
        await world.settled()
        assert [(one["attempt"], one["outcome"]) for one in world.attempts()] == [(1, "retryable")]
        world.clock.advance_ms(5_000)
        topic = f"{FIRST}.retry.5s"
        await world.admit(world.tier("5s")[0].value, topic=topic, timestamp_ms=world.clock.now_ms() - 5_000)
        await world.settled()
    assert [(one["attempt"], one["outcome"]) for one in world.attempts()] == [(1, "retryable"), (1, "cancelled")]


# --- giving partitions up ---------------------------------------------------------------------------------------------


async def test_giving_up_waits_for_what_is_under_way_and_leaves_the_rest() -> None:
    world = Stage(hanging, in_flight_max=100)
    world.table.put(subscription(max_in_flight=2))
    async with world.running():
        await world.admit(*(fresh(n) for n in range(5)))
        await world.admit(*(fresh(n) for n in range(10, 15)), partition=1)
        giving_up = asyncio.create_task(world.stage.give_up([(FIRST, 0)], 10))
        await turns()
        assert not giving_up.done()
        world.sender.answer(0, OK)
        world.sender.answer(1, PostResult(500, 1))
        await asyncio.wait_for(giving_up, 5)
        world.ledger(FIRST, 0).close()
        assert world.position(FIRST, 0) == 2
        assert [one["outcome"] for one in world.attempts()] == ["delivered", "retryable"]
        for number in range(2, 7):  # the other partition goes on
            await turns()
            world.sender.answer(number, OK)
        await world.settled()
    assert world.position(FIRST, 1) == 5
    assert sorted(posted.body for posted in world.sender.posted) == sorted(
        b'{"n":%d}' % n for n in (0, 1, 10, 11, 12, 13, 14)
    )


async def test_a_frame_that_comes_while_its_partition_is_given_up_starts_nothing() -> None:
    """It was fetched before, and nobody would wait for its POSTs: they would be made again by the next owner."""
    world = Stage(hanging)
    world.table.put(subscription(max_in_flight=10))
    async with world.running():
        await world.admit(fresh(1))
        world.ledger(FIRST).retire()
        giving_up = asyncio.create_task(world.stage.give_up([(FIRST, 0)], 10))
        await turns()
        await world.admit(fresh(2))
        world.sender.answer(0, OK)
        await asyncio.wait_for(giving_up, 5)
    assert [posted.body for posted in world.sender.posted] == [b'{"n":1}']
    assert world.position(FIRST) == 1


async def test_giving_up_ends_at_its_deadline_and_writes_nothing_afterwards() -> None:
    world = Stage(hanging)
    world.table.put(subscription())
    async with world.running():
        await world.admit(fresh())
        await asyncio.wait_for(world.stage.give_up([(FIRST, 0)], 0.02), 5)
        world.ledger(FIRST).close()
        world.sender.answer(0, OK)
        await world.settled()
    assert world.attempts() == []
    assert world.position(FIRST) is None
    assert world.stage.in_flight == 0


async def test_giving_up_does_not_wait_for_the_work_of_partitions_that_stay() -> None:
    world = Stage(hanging)
    world.table.put(subscription(max_in_flight=10))
    async with world.running():
        await world.admit(fresh(1))
        await world.admit(fresh(2), partition=1)
        giving_up = asyncio.create_task(world.stage.give_up([(FIRST, 0)], 10))
        await turns()
        world.kafka.answers.clear()
        world.sender.answer(0, OK)
        await turns()
        # From now on the settler always has something of the other partition.
        ledger = Ledger(0)
        ledger.open(list(range(10_000)))
        world.settler.on_settled(lambda: world.settler.settle(FIRST, 2, ledger, (0,), ()))
        world.settler.settle(FIRST, 2, ledger, (0,), ())
        world.kafka.answers.set()
        await asyncio.wait_for(giving_up, 2)
        assert world.position(FIRST, 0) == 1


async def test_lanes_emptied_by_giving_up_start_nothing() -> None:
    world = Stage(hanging, in_flight_max=1)
    for name in "ab":
        world.table.put(subscription(name))
    async with world.running():
        await world.admit(fresh(1, "a"), partition=1)
        await world.admit(fresh(2, "b"), partition=0)  # stands in line for the worker's only place
        await world.stage.give_up([(FIRST, 0)], 1)
        world.sender.answer(0, OK)
        await world.admit(fresh(3, "a"), partition=1)
        await turns()
        world.sender.answer(1, OK)
        await world.settled()
    assert [posted.body for posted in world.sender.posted] == [b'{"n":1}', b'{"n":3}']
    assert world.position(FIRST, 1) == 2


async def test_a_delivery_waiting_for_its_due_time_is_given_up_too() -> None:
    world = Stage()
    world.table.put(subscription())
    loop = asyncio.get_running_loop()
    async with world.running():
        await world.admit(tried(attempt=1, due_ms=world.clock.now_ms() + 30))
        await world.stage.give_up([(FIRST, 0)], 1)
        passed = asyncio.Event()
        loop.call_later(0.05, passed.set)  # later than the delivery's own timer
        await passed.wait()
        await world.settled()
    assert world.sender.posted == []
    assert world.position(FIRST) is None


async def test_a_lost_epoch_writes_nothing_and_the_next_one_starts_anew() -> None:
    world = Stage(hanging)
    world.table.put(subscription(max_in_flight=1))
    async with world.running():
        await world.admit(*(fresh(n) for n in range(3)))
        world.ledger(FIRST).close()  # lost without a word: nobody gave up in order
        again = Ledger(0)
        frame = world.frame(FIRST, [], ledger=again)
        frame.records = [Consumed(n, fresh(n)) for n in range(3)]
        await asyncio.wait_for(world.stage.admit(frame), 5)
        world.sender.answer(0, OK)
        await turns()
        assert world.attempts() == []
        for number in range(1, 4):
            await turns()
            world.sender.answer(number, OK)
        await world.settled()
    assert [posted.body for posted in world.sender.posted] == [b'{"n":0}', b'{"n":0}', b'{"n":1}', b'{"n":2}']
    assert len(world.attempts()) == 3
    assert world.position(FIRST) == 3


async def test_a_frame_of_a_lost_epoch_is_not_admitted() -> None:
    world = Stage()
    world.table.put(subscription())
    frame = world.frame(FIRST, [fresh()])
    frame.ledger.close()
    async with world.running():
        await asyncio.wait_for(world.stage.admit(frame), 5)
        await world.settled()
    assert world.sender.posted == []


async def test_an_interrupted_attempt_leaves_its_delivery_to_the_next_worker() -> None:
    world = Stage(hanging)
    world.table.put(subscription())
    async with world.running():
        await world.admit(fresh(1), fresh(2))
        world.sender.answer(1, OK)
        await world.sender.close()
        await world.settled()
        offset, metadata = world.kafka.committed["group", FIRST, 0]
    assert offset == 0
    assert Ledger(offset, metadata).open([0, 1]) == [1]
    assert [one["event_id"] for one in world.attempts()] == ["evt_2"]


async def test_after_a_restart_only_what_was_not_finished_is_posted() -> None:
    world = Stage()
    world.table.put(subscription())
    before = Ledger(0)
    before.open([0, 1, 2, 3])
    before.finish_all([1, 3])
    async with world.running():
        await world.admit(*(fresh(n) for n in range(4)), ledger=Ledger(*before.progress()))
        await world.settled()
    assert [posted.body for posted in world.sender.posted] == [b'{"n":0}', b'{"n":2}']
    assert world.position(FIRST) == 4


async def test_progress_restored_from_metadata_alone_is_committed() -> None:
    world = Stage(hanging)
    world.table.put(subscription())
    before = Ledger(0)
    before.open([0, 1])
    before.finish(1)
    after = Ledger(*before.progress())
    frame = world.frame(FIRST, [], ledger=after)
    frame.records = [Consumed(1, fresh(1))]  # offset 0 was removed from the topic meanwhile
    async with world.running():
        await world.stage.admit(frame)
        await world.settled()
    assert world.sender.posted == []
    assert world.position(FIRST) == 2


async def test_stopping_starts_nothing_more_and_settles_what_is_under_way() -> None:
    world = Stage(hanging, admitted_max=4)
    world.table.put(subscription(max_in_flight=2))
    async with world.running():
        admitting = asyncio.create_task(world.admit(*(fresh(n) for n in range(20))))
        await turns()
        stopping = asyncio.create_task(world.stage.stop(10))
        await turns()
        await asyncio.wait_for(admitting, 5)  # the stream is free to end
        assert not stopping.done()
        for number in (0, 1):
            world.sender.answer(number, OK)
        await asyncio.wait_for(stopping, 5)
        await world.admit(fresh(30), partition=1)
    assert len(world.sender.posted) == 2
    assert world.position(FIRST) == 2


async def test_a_sender_closed_while_stopping_cuts_the_wait_short() -> None:
    world = Stage(hanging)
    world.table.put(subscription())
    async with world.running():
        await world.admit(fresh())
        stopping = asyncio.create_task(world.stage.stop(10))
        await turns()
        await world.sender.close()
        await asyncio.wait_for(stopping, 5)
    assert world.position(FIRST) is None
