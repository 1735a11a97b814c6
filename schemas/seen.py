"""What `ingest.seen` remembers of an event or a request that was published over HTTP, and its Avro.

Written once for every event that has an id of its producer's, so the encoder is written by hand. This file remembers
nothing (`connectors/seen.py` does).
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from schemas import codec
from schemas.codec import get_bytes, get_long, get_string, put_bytes, put_long, put_string

DIGEST_BYTES = 12


class Seen(msgspec.Struct, frozen=True, gc=False):
    """Field for field `schemas/avro/seen.v1.avsc`; the record's key says whose it is."""

    id: str
    digest: bytes
    at_ms: int


def digest_of(*parts: bytes) -> bytes:
    """What tells one payload from another: 96 bits of BLAKE2b over the parts and their lengths."""
    state = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()


def encode_seen(header: bytes, seen: Seen) -> bytes:
    """The framed value of seen.v1; `header` is that of `codec.wire_header`."""
    return b"".join((header, put_string(seen.id), put_bytes(seen.digest), put_long(seen.at_ms)))


def decode_seen(value: bytes | None) -> Seen:
    """What a framed value of seen.v1 holds; UndecodableError when it is none."""
    return codec.decode_whole(value, _read, "record")


def _read(value: bytes, at: int) -> tuple[Seen, int]:
    id_, at = get_string(value, at)
    digest, at = get_bytes(value, at)
    at_ms, at = get_long(value, at)
    return Seen(id_, digest, at_ms), at
