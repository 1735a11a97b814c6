"""Replays: what is to be delivered again (the order), how far that has come (the progress), and their Avro.

Both are written now and then, so fastavro codes them. What follows from an order is decided in
`streams/core/replay.py`; this file reads no topic and knows no delivery.
"""

from __future__ import annotations

import math
import re
from typing import Literal

import msgspec

from schemas import codec
from schemas.errors import InvalidSubscriptionError, UndecodableError
from schemas.ids import EVENT_ID_BYTES_MAX
from schemas.subscription import EVENT_TYPES_MAX, ID_PATTERN, TENANT_PATTERN, check_event_type_pattern

#: Prefix of the ids of replays.
REPLAY_PREFIX = "rpl_"
RATE_DEFAULT = 100.0  # deliveries a second
RATE_MAX = 100_000.0
SUBSCRIPTIONS_MAX = 1_000
EVENT_IDS_MAX = 1_000
PLACES_MAX = 1_000
WORDS_MAX = 50  # reasons, or error classes
WHY_CHARACTERS_MAX = 1_000
#: `Unsent` that a replay remembers, about one for each subscription that is gone.
UNSENT_MAX = 1_000

Source = Literal["events", "deliveries", "dead"]
Wanted = Literal["planned", "running", "paused", "cancelled"]
State = Literal["waiting", "counting", "planned", "running", "paused", "done", "cancelled", "failed"]

SOURCES: tuple[Source, ...] = ("events", "deliveries", "dead")
#: States that nothing leaves.
ENDED: frozenset[State] = frozenset({"done", "cancelled", "failed"})

#: What the last attempt of a dead letter came to, in fewer words than `schemas.post.CAUSES`.
ERROR_CLASS_OF_CAUSE: dict[str, str] = {
    "address_refused": "address",
    "connect_failed": "connection",
    "dns_failed": "dns",
    "invalid_request": "request",
    "malformed_response": "response",
    "reset": "connection",
    "response_too_large": "response",
    "shutdown": "connection",
    "timeout": "timeout",
    "token_failed": "token",
    "tls_failed": "tls",
}
#: `none` is a dead letter that was never tried.
ERROR_CLASSES: frozenset[str] = frozenset({*ERROR_CLASS_OF_CAUSE.values(), "2xx", "3xx", "4xx", "5xx", "none"})

_WORD = re.compile(r"[a-z0-9_]{1,40}")


class InvalidReplayError(ValueError):
    """A replay that must not be ordered; the message names the field."""


class Place(msgspec.Struct, frozen=True, gc=False, order=True):
    """Where a dead letter stands."""

    partition: int
    offset: int


class Selection(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is delivered again; all that is given must hold, and what is empty or None says nothing.

    Source `events`: events are matched again, with the subscriptions of now. `deliveries`: what fan-out made of them
    then. `dead`: dead letters. `since_ms` (from then on) and `until_ms` (before) are Kafka's times of the records in
    that source, in milliseconds since the epoch. `replayed`: also what carries a replay's marker.
    """

    source: Source
    tenant: str | None = None
    subscriptions: tuple[str, ...] = ()
    event_types: tuple[str, ...] = ()
    event_ids: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    reasons: tuple[str, ...] = ()
    error_classes: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()
    replayed: bool = False


class Replay(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The order; field for field `schemas/avro/replay.v1.avsc`. `rate_max` is deliveries a second, 0 for no cap.

    `starts`, where there are any, stand in place of `since_ms`: of these partitions of `events` what stands at the
    offset or later is read, of the others what came since the order was made.
    """

    id: str
    created_ms: int
    by: str
    why: str = ""
    selection: Selection
    rate_max: float = RATE_DEFAULT
    wanted: Wanted = "planned"
    again: bool = False
    starts: tuple[Place, ...] = ()


class Span(msgspec.Struct, frozen=True, gc=False):
    """Offsets of one partition: from `start`, before `end`; `position` is the next to be read."""

    topic: str
    partition: int
    start: int
    end: int
    position: int


class Unsent(msgspec.Struct, frozen=True, gc=False):
    """Dead letters of this subscription, from the offset `start` of the partition and before `end`, that a replay
    selects and has not sent: there was no such subscription, or it took them no more."""

    subscription_id: str
    partition: int
    start: int
    end: int


class Progress(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How far a replay has come; field for field `schemas/avro/replay_progress.v1.avsc`.

    Positions, `read` and `skipped` are the count's (a dry run) until the run begins, and start again with it. Times are
    milliseconds since the epoch, 0 for one that has not come.
    """

    id: str
    state: State
    spans: tuple[Span, ...] = ()
    read: int = 0
    counted: int = 0
    counted_bytes: int = 0
    sent: int = 0
    skipped: int = 0
    detail: str = ""
    started_ms: int = 0
    updated_ms: int = 0
    finished_ms: int = 0
    unsent: tuple[Unsent, ...] = ()


def checked_selection(selection: Selection) -> Selection:
    """The selection when every rule of its fields holds; InvalidReplayError otherwise."""
    s = selection
    for field, most in (
        ("subscriptions", SUBSCRIPTIONS_MAX),
        ("event_types", EVENT_TYPES_MAX),
        ("event_ids", EVENT_IDS_MAX),
        ("reasons", WORDS_MAX),
        ("error_classes", WORDS_MAX),
        ("places", PLACES_MAX),
    ):
        if len(getattr(s, field)) > most:
            raise InvalidReplayError(f"{field}: more than {most}")
    if s.tenant is not None and not TENANT_PATTERN.fullmatch(s.tenant):
        raise InvalidReplayError(f"tenant: {s.tenant[:80]!r} is no tenant")
    for each in s.subscriptions:
        if not ID_PATTERN.fullmatch(each):
            raise InvalidReplayError(f"subscriptions: {each[:80]!r} is no id")
    for each in s.event_types:
        try:
            check_event_type_pattern(each)
        except InvalidSubscriptionError as error:
            raise InvalidReplayError(str(error)) from None
    for each in s.event_ids:
        if not 0 < len(each.encode("utf-8", "replace")) <= EVENT_ID_BYTES_MAX:
            raise InvalidReplayError(f"event_ids: {each[:80]!r} is empty, or has more than {EVENT_ID_BYTES_MAX} bytes")
    since_ms, until_ms = s.since_ms or 0, s.until_ms
    if since_ms < 0 or (until_ms is not None and until_ms <= since_ms):
        raise InvalidReplayError("until_ms: not after since_ms")
    if s.source != "dead" and (s.reasons or s.error_classes or s.places):
        raise InvalidReplayError("reasons, error_classes and places belong to the source dead only")
    for each in s.reasons:
        if not _WORD.fullmatch(each):
            raise InvalidReplayError(f"reasons: {each[:80]!r} is no reason")
    if unknown := sorted(set(s.error_classes) - ERROR_CLASSES):
        raise InvalidReplayError(f"error_classes: {unknown[0][:80]!r} is none of {', '.join(sorted(ERROR_CLASSES))}")
    if any(place.partition < 0 or place.offset < 0 for place in s.places):
        raise InvalidReplayError("places: negative")
    return s


def checked_replay(replay: Replay) -> Replay:
    """The order when every rule of its fields holds; InvalidReplayError otherwise."""
    if not ID_PATTERN.fullmatch(replay.id):
        raise InvalidReplayError(f"id: {replay.id[:80]!r} is no id")
    if len(replay.why) > WHY_CHARACTERS_MAX:
        raise InvalidReplayError(f"why: longer than {WHY_CHARACTERS_MAX} characters")
    if not (math.isfinite(replay.rate_max) and 0 <= replay.rate_max <= RATE_MAX):
        raise InvalidReplayError(f"rate_max: not between 0 and {RATE_MAX:,.0f} deliveries a second")
    checked_selection(replay.selection)
    if replay.starts:
        if replay.selection.source != "events" or replay.selection.since_ms is not None:
            raise InvalidReplayError("starts: only of the source events, and in place of since_ms")
        if len(replay.starts) > PLACES_MAX:
            raise InvalidReplayError(f"starts: more than {PLACES_MAX}")
        if any(place.partition < 0 or place.offset < 0 for place in replay.starts):
            raise InvalidReplayError("starts: negative")
        if len({place.partition for place in replay.starts}) < len(replay.starts):
            raise InvalidReplayError("starts: a partition is named twice")
    return replay


_REPLAY = codec.parse_schema(codec.own_schema("replay.v1"))
_PROGRESS = codec.parse_schema(codec.own_schema("replay_progress.v1"))


def encode_replay(header: bytes, replay: Replay) -> bytes:
    """The framed value of replay.v1; `header` is that of `codec.wire_header`."""
    return codec.encode_struct(header, _REPLAY, replay)


def decode_replay(value: bytes | None) -> Replay:
    """The order in a framed value that was written with replay.v1; UndecodableError when it was not."""
    replay = codec.decode_struct(value, _REPLAY, Replay)
    try:
        return checked_replay(replay)
    except InvalidReplayError as error:
        raise UndecodableError("bad_field", str(error)) from None


def encode_progress(header: bytes, progress: Progress) -> bytes:
    """The framed value of replay_progress.v1; `header` is that of `codec.wire_header`."""
    return codec.encode_struct(header, _PROGRESS, progress)


def decode_progress(value: bytes | None) -> Progress:
    """The progress in a framed value that was written with replay_progress.v1; UndecodableError when it was not."""
    return codec.decode_struct(value, _PROGRESS, Progress)
