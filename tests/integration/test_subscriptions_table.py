"""The subscriptions table on a real Kafka: catching up, bad records, and everything that may be out of reach."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct

import orjson
import pytest
from confluent_kafka import KafkaError, Producer

from connectors.compacted import BATCH_RECORDS, TableError, _Trouble
from connectors.local_kafka import Cluster
from connectors.subscriptions import SubscriptionsTable
from schemas import codec
from schemas.subscription import STANDARD_RETRY_SCHEDULE_MS, Subscription, subscription_to_json
from schemas.subscription_codec import REASONS
from streams.core.match import MatchIndex
from tests.helpers import eventually, eventually_async
from tests.subscriptions_topic import SECRET, SubscriptionsTopic, fields_of, sub

OWN = codec.own_schema("subscription.v4")


@pytest.fixture
def topic(kafka: Cluster, prefix: str) -> SubscriptionsTopic:
    return SubscriptionsTopic(kafka.bootstrap, f"{prefix}subscriptions")


async def test_it_starts_with_what_the_topic_holds_and_follows(topic: SubscriptionsTopic) -> None:
    a, b, gone = sub("a", "x", headers={"X-A": "1"}, reject_statuses=(404,)), sub("b"), sub("gone")
    topic.put(sub("a", "y"))
    topic.put(gone)
    await topic.put_avro(a)
    topic.write("b", b" \n" + subscription_to_json(b))
    topic.write("gone", None)
    table = topic.table()
    assert not table.caught_up
    await table.start()
    assert table.caught_up
    assert (len(table), table.get("a"), table.get("b"), table.get("gone"), table.lag()) == (2, a, b, None, 0)
    await topic.put_avro(later := sub("later"))
    await eventually_async(lambda: table.get("later") == later)
    await table.stop()
    await table.wait()
    assert table.get("later") == later


async def test_an_empty_topic_of_several_partitions_is_caught_up_at_once(kafka: Cluster, prefix: str) -> None:
    topic = SubscriptionsTopic(kafka.bootstrap, f"{prefix}subscriptions", partitions=3)
    table = topic.table()
    await table.start()
    assert (len(table), table.lag()) == (0, 0)
    for n in range(3):
        topic.put(sub(f"s{n}"), partition=n)
    await eventually_async(lambda: len(table) == 3)
    await table.stop()


async def test_it_waits_for_every_partition_and_tells_how_far_it_is(kafka: Cluster, prefix: str) -> None:
    topic = SubscriptionsTopic(kafka.bootstrap, f"{prefix}subscriptions", partitions=2)
    for n in range(40):
        topic.put(sub(f"s{n}"), partition=n % 2)
    progress: list[tuple[int, int]] = []
    table = topic.table(on_progress=lambda done, total: progress.append((done, total)))
    await table.start()
    assert len(table) == 40
    await table.stop()
    assert progress == sorted(progress)
    assert progress[-1] == (40, 40)


async def test_avro_of_another_schema_is_resolved(topic: SubscriptionsTopic) -> None:
    tree = orjson.loads(OWN)
    tree["fields"] = [
        {"name": "note", "type": "string"},
        *(field for field in tree["fields"] if field["name"] in ("id", "url", "event_types", "secrets")),
    ]
    text = orjson.dumps(tree).decode()
    schema_id = await topic.registry.register("other", text)
    record = {"note": "!", "id": "a", "url": "https://a.b", "event_types": ["x"], "secrets": [SECRET]}
    topic.write("a", codec.encode(schema_id, codec.parse_schema(text), record))
    table = topic.table()
    await table.start()
    assert table.get("a") == sub("a", "x", url="https://a.b")
    assert table.match("default", "x")[0].retry_schedule_ms is STANDARD_RETRY_SCHEDULE_MS
    await table.stop()


class Texts:
    """A registry of these texts, which cannot be registered where they are checked."""

    def __init__(self, **texts: str) -> None:
        self.texts = texts

    async def schema(self, schema_id: int) -> str:
        return self.texts[f"s{schema_id}"]


async def test_bad_records_are_logged_and_counted_and_change_nothing(
    kafka: Cluster, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Not compacted, since a compacted topic takes no record without a key.
    topic = SubscriptionsTopic(kafka.bootstrap, f"{prefix}subscriptions", cleanup="delete")
    good = sub("a")
    await topic.put_avro(good)
    framed = codec.encode(1, codec.parse_schema(OWN), fields_of(good))
    topic.registry._texts.append("{")  # id 2: a text that never was a schema
    bad: list[tuple[bytes | None, bytes | None, str]] = [
        (b"a", framed[:20], "truncated"),
        (b"a", b"", "truncated"),
        (b"a", framed + b"x", "avro"),
        (b"a", codec.wire_header(7) + framed[5:], "unknown_schema"),
        (b"a", codec.wire_header(2) + framed[5:], "schema"),
        (b"a", b"id: a", "wrong_magic"),
        (b"a", b"{}", "invalid"),
        (b"a", b'{"id": ', "invalid"),
        (b"a", subscription_to_json(good).replace(b"https://", b"gopher://"), "invalid"),
        (b"b", framed, "key_mismatch"),
        (b"\xff", framed, "key_mismatch"),
        (None, framed, "no_key"),
        (None, None, "no_key"),
    ]
    assert {reason for _, _, reason in bad} == REASONS
    for key, value, _ in bad:
        topic.write(key, value)
    topic.write(b"\xff", None)  # deletes what cannot be there
    table = topic.table()
    with caplog.at_level(logging.ERROR):
        await table.start()
    await table.stop()
    assert (len(table), table.get("a")) == (1, good)
    assert table.bad == {reason: [r for *_, r in bad].count(reason) for reason in REASONS}
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    for offset, (message, (_, _, reason)) in enumerate(zip(errors, bad, strict=True), 1):
        assert message.startswith(f"{topic.name}[0] offset {offset} is no subscription, and changes none: ")
        assert message.endswith(f" ({reason})")
    assert SECRET not in caplog.text


async def test_while_the_registry_is_out_of_reach_the_table_waits(
    topic: SubscriptionsTopic, caplog: pytest.LogCaptureFixture
) -> None:
    await topic.put_avro(sub("a"))
    topic.registry.available = False
    table = topic.table()
    starting = asyncio.create_task(table.start())
    await eventually_async(lambda: caplog.text.count("out of reach; trying again") >= 2)
    assert not table.caught_up
    topic.registry.available = True
    await starting
    assert (table.get("a"), table.bad) == (sub("a"), {})
    await table.stop()


async def test_it_can_be_stopped_while_the_registry_does_not_answer(topic: SubscriptionsTopic) -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    class Silent:
        async def schema(self, schema_id: int) -> str:
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return ""

    await topic.put_avro(sub("a"))
    table = topic.table(schemas=Silent())
    starting = asyncio.create_task(table.start())
    await asked.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await cancelled.wait()
    assert not table._thread.is_alive()


async def test_a_slow_loop_slows_the_table_and_bounds_what_waits(topic: SubscriptionsTopic) -> None:
    count = 8 * BATCH_RECORDS
    topic.write_all([sub(f"s{n}") for n in range(count)])
    table = topic.table()
    decoded, applied, ahead_max = 0, 0, 0
    decode, looks = table._decode, iter(range(10))

    def counting(key: bytes | None, value: bytes | None) -> Subscription | str:
        nonlocal decoded
        decoded += 1
        return decode(key, value)

    def slow(old: Subscription | None, new: Subscription | None) -> None:
        nonlocal applied, ahead_max
        if applied == 0:  # the loop is busy until the next batch is decoded, and for a while after: the thread waits
            eventually(lambda: decoded >= 2 * BATCH_RECORDS and next(looks, None) is None)
        applied += 1
        ahead_max = max(ahead_max, decoded - applied)

    table._decode = counting
    table.on_change(slow)
    await table.start()
    assert (len(table), applied, table.lag()) == (count, count, 0)
    assert BATCH_RECORDS <= ahead_max < 2 * BATCH_RECORDS
    await table.stop()


async def test_it_can_be_stopped_while_the_loop_is_behind(topic: SubscriptionsTopic) -> None:
    stopping: list[asyncio.Task[None]] = []

    def stop(old: Subscription | None, new: Subscription | None) -> None:
        if not stopping:
            stopping.append(asyncio.create_task(table.stop()))

    topic.write_all([sub(f"s{n}") for n in range(4 * BATCH_RECORDS)])
    table = topic.table()
    table.on_change(stop)
    await table.start()
    await stopping[0]
    assert not table._thread.is_alive()
    assert not table.caught_up
    await table.wait()


async def test_a_listener_that_fails_does_not_make_others_miss_changes(
    topic: SubscriptionsTopic, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Subscription | None] = []

    def fail(old: Subscription | None, new: Subscription | None) -> None:
        raise ZeroDivisionError

    topic.put(sub("a"))
    table = topic.table()
    table.on_change(fail)
    table.on_change(lambda old, new: heard.append(new))
    await table.start()
    assert heard == [sub("a")]
    assert "a listener of" in caplog.text
    await table.stop()


async def test_what_is_not_committed_is_neither_seen_nor_waited_for(topic: SubscriptionsTopic, prefix: str) -> None:
    topic.put(sub("before"))
    producer = Producer(topic.conf | {"transactional.id": f"{prefix}writer"})
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(topic.name, subscription_to_json(sub("open")), "open")
    producer.flush(60)
    table = topic.table()
    await table.start()
    assert [s.id for s in table.match("default", "x")] == ["before"]
    producer.commit_transaction(60)
    await eventually_async(lambda: table.get("open"))
    producer.begin_transaction()
    producer.produce(topic.name, None, "open")
    producer.flush(60)
    producer.abort_transaction(60)
    topic.put(sub("after"))
    await eventually_async(lambda: table.get("after"))
    assert len(table) == 3
    await eventually_async(lambda: table.lag() == 0)
    await table.stop()

    # The topic now ends with transaction markers and what was aborted: that is caught up too.
    again = topic.table()
    await again.start()
    assert len(again) == 3
    await again.stop()


# --- out of reach, or never to be reached -------------------------------------------------------------------


async def test_a_missing_topic_is_one_sentence_with_the_next_step(kafka: Cluster, prefix: str) -> None:
    table = SubscriptionsTable(
        {"bootstrap.servers": kafka.bootstrap},
        f"{prefix}nowhere",
        index=MatchIndex(),
        schemas=Texts(),
    )
    with pytest.raises(TableError, match=r"nowhere does not exist; run `distributary topics apply`"):
        await table.start()
    with pytest.raises(TableError):
        await table.wait()
    await table.stop()


async def test_wrong_settings_are_one_sentence(topic: SubscriptionsTopic) -> None:
    table = topic.table(conf={"security.protocol": "smoke signals"})
    with pytest.raises(TableError, match=r"Kafka settings are wrong: .*security\.protocol"):
        await table.start()


async def test_without_a_broker_it_goes_on_asking_and_can_be_stopped(
    topic: SubscriptionsTopic, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refuses every connection
        table = topic.table(conf={"bootstrap.servers": f"127.0.0.1:{unused.getsockname()[1]}"})
        starting = asyncio.create_task(table.start())
        await eventually_async(lambda: "trying again" in caplog.text)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert not table._thread.is_alive()


async def refuse_sasl(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As much of a broker as it takes to refuse a SASL mechanism (Kafka protocol: ApiVersions, SaslHandshake)."""
    try:
        while True:
            request = await reader.readexactly(struct.unpack(">i", await reader.readexactly(4))[0])
            api, version, correlation = struct.unpack_from(">hhi", request)
            if api == 18 and version > 0:
                body = struct.pack(">hi", 35, 0)  # UNSUPPORTED_VERSION: ask again with version 0
            elif api == 18:
                supported = [(3, 0, 4), (17, 0, 1), (18, 0, 0), (36, 0, 0)]
                body = struct.pack(">hi", 0, len(supported)) + b"".join(struct.pack(">hhh", *s) for s in supported)
            else:
                body = struct.pack(">hi", 33, 0)  # UNSUPPORTED_SASL_MECHANISM
            writer.write(struct.pack(">ii", 4 + len(body), correlation) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def test_refused_credentials_are_one_sentence(topic: SubscriptionsTopic) -> None:
    async with await asyncio.start_server(refuse_sasl, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        table = topic.table(
            conf={
                "bootstrap.servers": f"127.0.0.1:{port}",
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "me",
                "sasl.password": "hush",
            }
        )
        with pytest.raises(TableError, match="Kafka refuses the credentials") as error:
            await table.start()
    assert "hush" not in str(error.value)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "denies this user READ on the topic s; grant it"),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, "denies this user READ on the topic s; grant it"),
        (KafkaError.SASL_AUTHENTICATION_FAILED, "refuses the credentials"),
        (KafkaError._AUTHENTICATION, "refuses the credentials"),
    ],
)
def test_what_waiting_does_not_change_is_raised_while_starting(code: int, sentence: str) -> None:
    trouble = _Trouble("s")
    with pytest.raises(TableError, match=sentence):
        trouble.meet(KafkaError(code), starting=True)
    trouble.meet(KafkaError(code), starting=False)


def test_other_errors_are_logged_once_until_records_arrive(caplog: pytest.LogCaptureFixture) -> None:
    trouble = _Trouble("s")
    for _ in range(3):
        trouble.meet(KafkaError(KafkaError._TRANSPORT), starting=True)
        trouble.meet(KafkaError(KafkaError._ALL_BROKERS_DOWN), starting=False)
    assert len(caplog.messages) == 2
    trouble.clear()
    trouble.meet(KafkaError(KafkaError._TRANSPORT), starting=False)
    assert len(caplog.messages) == 3


class Broken:
    """A registry with a defect."""

    async def schema(self, schema_id: int) -> str:
        raise ZeroDivisionError


async def test_a_defect_ends_the_table_and_is_raised(
    topic: SubscriptionsTopic, caplog: pytest.LogCaptureFixture
) -> None:
    table = topic.table(schemas=Broken())
    await table.start()
    await topic.put_avro(sub("a"))
    with pytest.raises(ZeroDivisionError):
        await table.wait()
    assert "is not followed any more" in caplog.text
    await table.stop()

    again = topic.table(schemas=Broken())
    with pytest.raises(ZeroDivisionError):
        await again.start()


async def test_stopping_what_never_started_does_nothing(topic: SubscriptionsTopic) -> None:
    await topic.table().stop()
