"""Bad input on a real Kafka: each ends in quarantine with its reason and original bytes, and the stream goes on."""

from __future__ import annotations

from connectors.local_kafka import Cluster
from schemas import codec
from schemas.event import Event, encode_event
from schemas.frame import Headers
from schemas.ids import delivery_id
from streams.quarantine import REASON, SOURCE_OFFSET, SOURCE_PARTITION, SOURCE_TOPIC
from tests.helpers import eventually_async
from tests.integration.sink import Sink
from tests.integration.workers import Site


async def test_every_kind_of_bad_event(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    good = site.event("evt_1")
    large = b'"' + b"x" * (5 << 20) + b'"'
    bad = {
        "no_value": None,
        "wrong_magic": b'{"id":"json"}',
        "unknown_schema": codec.wire_header(2_000_000_000) + good[5:],
        "truncated": good[:-4],
        "avro": good + b"\0",
        "no_id": site.event(""),
        "bad_type": site.event("evt_2", "not a type"),
        "bad_data": site.event("evt_3", data=b"{"),
        "too_large": site.event("evt_4", data=large),
        "not_an_event": codec.wire_header(site.schemas.delivery) + b"\0" * 16,
    }
    headers: Headers = [("trace", b"\xff\x00"), ("none", None)]
    async with Sink().running() as sink:
        site.subscribe("s", sink.url("/ok"))
        async with site.worker() as worker:
            for reason, value in bad.items():
                site.write(site.topics.events, [(reason.encode(), value)], partition=1, headers=headers)
            site.write(site.topics.events, [(b"k", good)], partition=1)
            await eventually_async(lambda: sink.counts["/ok"] == {delivery_id("evt_1", "s"): 1})
            await eventually_async(lambda: len(site.read(site.topics.quarantine)) == len(bad))
            assert {name: count for name, count in worker.counters.items() if ":" in name} == {
                f"quarantined:{reason}": 1 for reason in bad
            }
    found = {message.key().decode(): message for message in site.read(site.topics.quarantine)}
    assert {reason: message.value() for reason, message in found.items()} == bad
    for offset, reason in enumerate(bad):
        marks = dict(found[reason].headers())
        assert marks[REASON] == reason.encode()
        assert (marks[SOURCE_TOPIC], marks[SOURCE_PARTITION]) == (site.topics.events.encode(), b"1")
        assert marks[SOURCE_OFFSET] == b"%d" % offset
        assert found[reason].headers()[:2] == headers
    assert [one["event_id"] for one in site.attempts()] == ["evt_1"]


async def test_bad_deliveries_and_a_delivery_to_a_bad_url(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    tier = f"{site.topics.deliveries}.retry.1s"
    async with Sink().running() as sink:
        site.subscribe("s", sink.url("/ok"))
        site.subscribe("odd", "http://127.1/")  # a valid URL that no sender will use
        async with site.worker() as worker:
            site.write(site.topics.deliveries, [(b"a", b"garbage")], partition=0)
            site.write(tier, [(b"b", codec.wire_header(site.schemas.delivery) + b"\x04")], partition=0)
            site.send(["evt_1"])
            await eventually_async(lambda: worker.counters["delivered"] == 1)
            await eventually_async(lambda: len(site.read(site.topics.quarantine)) == 2)
            await eventually_async(lambda: len(site.dead()) == 1)
            assert worker.counters["dead:invalid_endpoint"] == 1
    found = {message.key(): message for message in site.read(site.topics.quarantine)}
    assert found[b"a"].value() == b"garbage"
    assert dict(found[b"a"].headers())[REASON] == b"wrong_magic"
    assert dict(found[b"b"].headers())[SOURCE_TOPIC] == tier.encode()
    (letter,) = site.dead()
    assert letter["reason"] == "invalid_endpoint"
    assert "IPv4" in letter["detail"]


async def test_the_quarantine_itself_takes_the_largest_event_the_topic_takes(kafka: Cluster, prefix: str) -> None:
    site = await Site.made(kafka.bootstrap, prefix)
    value = encode_event(site.schemas.event, Event("e", "order.x", "default", 0, b"x" * ((8 << 20) - 300)))
    async with site.worker() as worker:
        site.write(site.topics.events, [(b"k", value)], partition=0, headers=[("h", b"x" * 50)])
        await eventually_async(lambda: worker.counters["quarantined:too_large"] == 1)
        await eventually_async(lambda: len(site.read(site.topics.quarantine)) == 1)
    assert site.read(site.topics.quarantine)[0].value() == value
