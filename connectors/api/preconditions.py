"""ETags and the conditions that requests set on them (RFC 9110, 8.8 and 13.1; 428 is RFC 6585, 3).

The ETag of a thing is the offset of its record on its compacted topic. Compaction keeps offsets, so every process
agrees on it, and a thing that was written again has another.
"""

from __future__ import annotations

import re

from connectors.api.problems import ProblemError
from connectors.api.routes import Call, Header

ETAG = Header("ETag", "The version of what is shown; for If-Match", pattern='^"[0-9]+"$')
IF_MATCH = Header("If-Match", "Only if it still has this ETag, as GET said it; * for any")
IF_NONE_MATCH = Header("If-None-Match", "`*`: only if there is none yet")
_LIST = re.compile(r'\s*(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"\s*(?:,\s*(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"\s*)*')
_TAG = re.compile(r'(?:W/)?"[^"]*"')


def etag(offset: int | None) -> str:
    """Of the record at this offset."""
    return f'"{offset}"'


def require_match(call: Call, present: str, *, needed: bool) -> None:
    """ProblemError 412 when If-Match names another version than `present`; 428 when it is `needed` and not there; 400
    when it is no list of ETags. Weak ETags never match (RFC 9110, 13.1.1)."""
    given = call.header("If-Match")
    if given is None:
        if needed:
            raise ProblemError(428, "send If-Match with the ETag that GET gave, so that nobody's change is lost")
        return
    if given.strip() == "*":
        return
    if not _LIST.fullmatch(given):
        raise ProblemError(400, 'If-Match is no list of ETags; send it as GET gave it, such as "42"')
    if present not in _TAG.findall(given):
        raise ProblemError(412, "it was changed meanwhile; read it again and repeat the change on what it is now")


def require_absent(call: Call, *, there: bool) -> None:
    """ProblemError 412 when the request is about a version, and there is none; or about none, and there is one."""
    if there and call.header("If-None-Match") is not None:
        raise ProblemError(412, "there is one already; leave If-None-Match out and send If-Match to change it")
    if not there and call.header("If-Match") is not None:
        raise ProblemError(412, "there is none to match; leave If-Match out to create it")
