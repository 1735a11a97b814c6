"""Cursors of lists: where the next page begins, as a text that is opaque to its holder.

A cursor is the key of the last thing on a page, so pages stay right while things come and go between them. It grants
nothing: who may see what is asked again for each page. Pure.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from connectors.api.problems import Fault, ProblemError

LIMIT_MAX = 500
LENGTH_MAX = 4_096


def cursor(*key: str | int) -> str:
    """Of the last thing on a page."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).rstrip(b"=").decode()


def position(text: str | None, kind: Any) -> tuple[Any, ...] | None:
    """The key of a cursor, as `kind` (such as `tuple[str, str]`); None without a cursor. ProblemError 400."""
    if not text:
        return None
    try:
        if len(text) > LENGTH_MAX:
            raise ValueError
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        found = msgspec.json.decode(raw, type=kind)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        detail = "the cursor is none of ours; leave it out to begin with the first page"
        raise ProblemError(400, detail, errors=[Fault("?cursor", detail)]) from None
    assert isinstance(found, tuple)
    return found


def positions_cursor(positions: Mapping[int, int]) -> str:
    """Of an offset in each partition, for lists that are read from a topic."""
    return cursor(*(number for place in sorted(positions.items()) for number in place))


def cursor_positions(text: str | None) -> dict[int, int] | None:
    """What it was made of. ProblemError 400."""
    found = position(text, tuple[Annotated[int, Meta(ge=0)], ...])
    return None if found is None else dict(zip(found[::2], found[1::2], strict=False))
