"""What Kafka does not let this user do, in a sentence that names the right to be granted.

The rights that each role needs stand in docs/how-to/secure-kafka.md. This file asks nobody.
"""

from __future__ import annotations

from confluent_kafka import KafkaError

from connectors.admin import ClusterError, not_granted

DENIED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)


def denied(
    error: KafkaError, operation: str, *, topic: str = "", group: str = "", transaction: str = ""
) -> ClusterError:
    """The sentence for one of `DENIED`: whichever resource the error is about has to be given."""
    kind, name = {
        KafkaError.TOPIC_AUTHORIZATION_FAILED: ("topic", topic),
        KafkaError.GROUP_AUTHORIZATION_FAILED: ("group", group),
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: ("transactional id", transaction),
    }[error.code()]
    return not_granted(operation, kind, name)
