"""Errors that cross a port: raised by `connectors`, handled by `streams`.

Each carries one sentence for people. Errors that stay inside one side are defined there.
"""

from __future__ import annotations


class UnknownSchemaError(LookupError):
    """The registry answers, and has no schema of this id."""


class RegistryUnavailableError(ConnectionError):
    """The registry does not answer: nothing can be said about the schema, so the stream waits."""


class StaleGroupError(Exception):
    """The consumer group does not accept offsets of this member epoch; nothing was written."""


class FencedError(Exception):
    """Another producer with the same transactional id took over: this worker must stop."""


class RecordTooLargeError(Exception):
    """A record exceeds what its topic takes; nothing was written."""

    def __init__(self, topic: str, size_bytes: int) -> None:
        super().__init__(
            f"a record of {size_bytes} bytes is more than the topic {topic} takes; raise its max.message.bytes"
        )
        self.topic = topic
        self.size_bytes = size_bytes


class InvalidSubscriptionError(ValueError):
    """A subscription record that must not come into force; the message names the field."""


class InvalidProviderError(ValueError):
    """A declaration of how a provider signs that does not make sense; the message names the field."""


class InvalidSourceError(ValueError):
    """A source that must not come into force; the message names the field and quotes no secret."""


class UnsealableError(ValueError):
    """A sealed secret that cannot be opened with the keys at hand: one sentence with the next step, and no secret."""


class InvalidFilterError(ValueError):
    """A filter pattern that must not come into force: `path` is the place in it, as `$.data.amount[0].numeric[1]`."""

    def __init__(self, path: str, sentence: str) -> None:
        super().__init__(f"{path}: {sentence}")
        self.path = path
        self.sentence = sentence


class InvalidTransformError(ValueError):
    """A transform that is no expression, or one that is too large; the message names the place."""


class TransformFailedError(ValueError):
    """A transform that gives no result for an event."""


class UndecodableError(ValueError):
    """A record that cannot be decoded or routed; `reason` is the short, closed name that counters use."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class UnresolvableError(ValueError):
    """What was written cannot be read with the schema asked for; `path` is the place, as `$.customer.address.zip`."""

    def __init__(self, path: str, sentence: str) -> None:
        super().__init__(f"{path}: {sentence}")
        self.path = path
        self.sentence = sentence
