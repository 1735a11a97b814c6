"""Making, rotating and revoking API keys: what the HTTP API and the command line have in common.

Each change goes through the pen, with its audit record in the same transaction; keys that ended long ago are removed
with it. Nobody gets a key to more than they have themselves. This file does not check a key that somebody presents.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from connectors.api_keys import KeysTable
from connectors.pen import Pen
from schemas.access import InvalidAccessError, check_given
from schemas.api_key import ApiKey, Draw, encode_key, new_key, revoked, rotated
from schemas.audit import Asked, audit_out, audit_record
from schemas.frame import Out

T = TypeVar("T")

#: Valid keys of one tenant, and of the operators.
KEYS_MAX = 1_000
#: Records that one change removes.
REMOVED_MAX = 100
#: How often a rotation is tried again because the key changed meanwhile.
TRIES_MAX = 3
KIND = "key"


class UnknownKeyError(Exception):
    """There is no such key, for whoever asks."""


class KeyConflictError(Exception):
    """The change cannot be made as things are; one sentence with the next step."""


class KeyTopics(NamedTuple):
    """Where the records go, and what stands before them (`schemas.codec.wire_header`)."""

    keys: str
    keys_header: bytes
    audit: str
    audit_header: bytes


class KeyDesk:
    """`compute` runs what hashes elsewhere (`KeyCheck.compute`); `draw` are random bytes for secrets.

    Every method takes the change as it was asked for: by whom, and when. InvalidAccessError says what may not be asked,
    and the errors of `Pen.change` pass through.
    """

    def __init__(
        self,
        table: KeysTable,
        pen: Pen,
        topics: KeyTopics,
        draw: Draw,
        compute: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        self.table = table
        self._pen = pen
        self._topics = topics
        self._draw = draw
        self._compute = compute

    def find(self, asked: Asked, key_id: str) -> ApiKey:
        """The key. UnknownKeyError, also where it is another tenant's."""
        key = self.table.get(key_id)
        if key is None or not asked.principal.sees(key.tenant):
            raise UnknownKeyError(f"there is no key {key_id}")
        return key

    async def create(
        self,
        asked: Asked,
        *,
        tenant: str | None,
        scopes: tuple[str, ...],
        name: str = "",
        expires_ms: int = 0,
        rate: float = 0.0,
    ) -> tuple[ApiKey, str]:
        """A new key, and its text: nobody can know it again. KeyConflictError when there are too many."""
        given = check_given(asked.principal, tenant, scopes)
        fields: dict[str, Any] = {"tenant": tenant, "scopes": given, "name": name, "rate": rate}
        whence: dict[str, Any] = {"created_ms": asked.at_ms, "created_by": asked.principal.actor}
        key, text = await self._compute(lambda: new_key(self._draw, expires_ms=expires_ms, **fields, **whence))

        def decide() -> list[Out]:
            same = [each for each in self.table.every() if each.tenant == tenant]
            if sum(each.state(asked.at_ms) == "active" for each in same) >= KEYS_MAX:
                raise KeyConflictError(f"there are {KEYS_MAX} keys already; revoke those that nobody uses")
            return self._written(asked, "created", None, key)

        await self._pen.change(decide)
        return key, text

    async def rotate(self, asked: Asked, key_id: str, overlap_ms: int) -> tuple[ApiKey, str]:
        """The key with another secret, and its text; the secret before is valid for `overlap_ms` more.

        UnknownKeyError; KeyConflictError when it is changed by others all the time.
        """
        for _ in range(TRIES_MAX):
            before = self.find(asked, key_id)
            check_given(asked.principal, before.tenant, before.scopes)  # who gets the text can use it
            after, text = await self._compute(_rotation(before, self._draw, asked.at_ms, overlap_ms))

            def decide(before: ApiKey = before, after: ApiKey = after) -> list[Out]:
                if self.find(asked, key_id) != before:
                    raise _ChangedError
                return self._written(asked, "rotated", before, after)

            try:
                await self._pen.change(decide)
            except _ChangedError:
                continue
            return after, text
        raise KeyConflictError(f"the key {key_id} is being changed by somebody else; look at it, and ask again")

    async def revoke(self, asked: Asked, key_id: str) -> ApiKey:
        """The key, which is valid no more; no change when it was revoked before. UnknownKeyError."""

        def decide() -> list[Out]:
            before = self.find(asked, key_id)
            after = revoked(before, asked.at_ms)
            return [] if after is before else self._written(asked, "revoked", before, after)

        await self._pen.change(decide)
        return self.find(asked, key_id)

    def _written(self, asked: Asked, action: str, before: ApiKey | None, after: ApiKey) -> list[Out]:
        topics = self._topics
        record = audit_record(asked, action, KIND, after.id, after.tenant, before, after)
        old = [each for each in self.table.every() if each.removable(asked.at_ms) and each.id != after.id]
        return [
            (topics.keys, after.id.encode(), encode_key(topics.keys_header, after), -1, None),
            *((topics.keys, each.id.encode(), None, -1, None) for each in old[:REMOVED_MAX]),
            audit_out(topics.audit, topics.audit_header, record),
        ]


class _ChangedError(Exception):
    """The key is not what the rotation was computed from."""


def _rotation(key: ApiKey, draw: Draw, now_ms: int, overlap_ms: int) -> Callable[[], tuple[ApiKey, str]]:
    return lambda: rotated(key, draw, now_ms, overlap_ms)


__all__ = ["InvalidAccessError", "KeyConflictError", "KeyDesk", "KeyTopics", "UnknownKeyError"]
