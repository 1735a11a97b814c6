"""Marks of dead letters that were discarded: which, by whom and why. One record, however many they are.

What a mark means for a dead letter is decided in `streams/core/dead.py`. Nothing is deleted by one.
"""

from __future__ import annotations

import msgspec

from schemas import codec
from schemas.errors import UndecodableError
from schemas.replay import WHY_CHARACTERS_MAX, InvalidReplayError, Selection, checked_selection
from schemas.subscription import ID_PATTERN

MARK_PREFIX = "mrk_"


class InvalidMarkError(ValueError):
    """A mark that must not be made; the message names the field."""


class End(msgspec.Struct, frozen=True, gc=False):
    """What stands at this offset of the partition or later is not meant."""

    partition: int
    offset: int


class DeadMark(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Field for field `schemas/avro/dead_mark.v1.avsc`. The selection's source is `dead`."""

    id: str
    at_ms: int
    by: str
    why: str
    selection: Selection
    ends: tuple[End, ...]


def checked_mark(mark: DeadMark) -> DeadMark:
    """The mark when every rule of its fields holds; InvalidMarkError otherwise."""
    if not ID_PATTERN.fullmatch(mark.id):
        raise InvalidMarkError(f"id: {mark.id[:80]!r} is no id")
    if not mark.why.strip():
        raise InvalidMarkError("why: say why, for those who look for it later")
    if len(mark.why) > WHY_CHARACTERS_MAX:
        raise InvalidMarkError(f"why: longer than {WHY_CHARACTERS_MAX} characters")
    if mark.selection.source != "dead":
        raise InvalidMarkError("selection: its source is not dead")
    try:
        checked_selection(mark.selection)
    except InvalidReplayError as error:
        raise InvalidMarkError(str(error)) from None
    return mark


_SCHEMA = codec.parse_schema(codec.own_schema("dead_mark.v1"))


def encode_mark(header: bytes, mark: DeadMark) -> bytes:
    """The framed value of dead_mark.v1; `header` is that of `codec.wire_header`."""
    return codec.encode(codec.wire_schema_id(header), _SCHEMA, msgspec.to_builtins(mark))


def decode_mark(value: bytes | None) -> DeadMark:
    """The mark in a framed value that was written with dead_mark.v1; UndecodableError when it was not."""
    try:
        return checked_mark(codec.decode_struct(value, _SCHEMA, DeadMark))
    except InvalidMarkError as error:
        raise UndecodableError("bad_field", str(error)) from None
