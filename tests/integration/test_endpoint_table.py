"""The table of endpoints' health on a real Kafka: caught up when it starts, and not led astray by bad records."""

from __future__ import annotations

import logging

import pytest

from connectors.compacted import TableError
from connectors.endpoints import EndpointTable
from connectors.local_kafka import Cluster
from schemas import codec
from schemas.endpoint import EndpointState, encode_state
from tests.helpers import eventually_async
from tests.subscriptions_topic import CompactedTopic

HEADER = codec.wire_header(1)


async def test_it_has_caught_up_when_it_starts_and_follows(kafka: Cluster, prefix: str) -> None:
    topic = CompactedTopic(kafka.bootstrap, f"{prefix}endpoints.state")
    states = [EndpointState(subscription_id=f"s{n}", openings=n) for n in range(5)]
    for state in states:
        topic.write(state.subscription_id, encode_state(HEADER, state))
    topic.write("s0", None)
    progress: list[tuple[int, int]] = []
    table = EndpointTable(topic.conf, topic.name, on_progress=lambda done, total: progress.append((done, total)))
    await table.start()
    assert table.caught_up
    assert sorted(table.states(), key=lambda state: state.openings) == states[1:]
    assert (len(table), table.lag(), progress[-1]) == (4, 0, (6, 6))
    later = EndpointState(subscription_id="s0", circuit="open")
    topic.write("s0", encode_state(HEADER, later))
    await eventually_async(lambda: table.get("s0") == later)
    await table.stop()
    await table.wait()


async def test_bad_records_are_logged_and_counted_and_change_nothing(
    kafka: Cluster, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Not compacted, since a compacted topic takes no record without a key.
    topic = CompactedTopic(kafka.bootstrap, f"{prefix}endpoints.state", cleanup="delete")
    good = EndpointState(subscription_id="a", disabled_ms=7, disabled_reason="owner")
    value = encode_state(HEADER, good)
    topic.write("a", value)
    bad: list[tuple[bytes | None, bytes | None, str]] = [
        (b"a", b"", "truncated"),
        (b"a", value[:-1], "truncated"),
        (b"a", b'{"subscription_id": "a"}', "wrong_magic"),
        (b"a", value + b"x", "avro"),
        (b"a", value.replace(b"closed", b"melted"), "avro"),
        (b"b", value, "key_mismatch"),
        (b"\xff", value, "key_mismatch"),
        (None, value, "no_key"),
        (None, None, "no_key"),
    ]
    for key, wrong, _ in bad:
        topic.write(key, wrong)
    table = EndpointTable(topic.conf, topic.name)
    with caplog.at_level(logging.ERROR):
        await table.start()
    await table.stop()
    assert table.states() == [good]
    assert table.bad == {"truncated": 2, "wrong_magic": 1, "avro": 2, "key_mismatch": 2, "no_key": 2}
    for offset, (message, (_, _, reason)) in enumerate(zip(caplog.messages, bad, strict=True), 1):
        assert message.startswith(f"{topic.name}[0] offset {offset} is no endpoint state, and changes none: ")
        assert message.endswith(f" ({reason})")


async def test_a_missing_topic_is_one_sentence(kafka: Cluster, prefix: str) -> None:
    table = EndpointTable({"bootstrap.servers": kafka.bootstrap}, f"{prefix}nowhere")
    with pytest.raises(TableError, match=r"nowhere does not exist; run `distributary topics apply`"):
        await table.start()
