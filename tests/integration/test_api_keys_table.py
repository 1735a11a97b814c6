"""The table of API keys on a real Kafka: what is written is known, what is bad changes nothing."""

from __future__ import annotations

from connectors.api_keys import KeysTable
from connectors.local_kafka import Cluster
from schemas import codec
from schemas.api_key import ApiKey, encode_key, new_key, revoked
from tests.helpers import eventually_async
from tests.subscriptions_topic import CompactedTopic

HEADER = codec.wire_header(1)


def key(number: int) -> ApiKey:
    def draw(length: int) -> bytes:
        return number.to_bytes(length, "big")

    scopes = ("events:write",)
    return new_key(draw, tenant="acme", scopes=scopes, name="", created_ms=1, created_by="")[0]


async def test_keys_come_and_go(kafka: Cluster, prefix: str) -> None:
    topic = CompactedTopic(kafka.bootstrap, f"{prefix}api.keys", cleanup="delete")
    first, second, last = key(1), key(2), key(3)
    topic.write(second.id, encode_key(HEADER, second))
    table = KeysTable(topic.conf, topic.name)
    await table.start()
    try:
        assert (table.get(second.id), table.get(first.id), len(table)) == (second, None, 1)
        topic.write(first.id, encode_key(HEADER, first))
        topic.write(second.id, encode_key(HEADER, revoked(second, 5)))
        topic.write(first.id, encode_key(HEADER, second))  # another's key
        topic.write(None, encode_key(HEADER, second))
        topic.write(first.id, b"{}")
        topic.write(last.id, encode_key(HEADER, last))
        await eventually_async(lambda: table.get(last.id))
        assert table.every() == [first, revoked(second, 5), last]
        assert table.bad == {"key_mismatch": 1, "no_key": 1, "truncated": 1}
        topic.write(first.id, None)
        await eventually_async(lambda: table.get(first.id) is None)
    finally:
        await table.stop()
