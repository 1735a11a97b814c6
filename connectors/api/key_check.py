"""Checking an API key that somebody presents, at a bounded price.

scrypt takes some 50 ms and 16 MiB: it runs on threads, few at a time, and what was found right is remembered by the
SHA-256 of the text, so that a key costs it once. A remembered key counts only while the table holds the very record
that it was checked against: whatever changes the record forgets it. An unknown id costs what a wrong secret does.

This file reads no request and does not slow down who guesses (`connectors/api/who.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from schemas.api_key import NOBODY, ApiKey, parse_key

T = TypeVar("T")

#: Hashes computed at a time: guessing must leave the processor to others.
THREADS = 2
#: Different texts that wait for one; beyond, who comes is told to come again.
WAITING_MAX = 64
REMEMBERED_MAX = 10_000


class BusyError(Exception):
    """Too many keys that were never seen before wait to be checked."""


class KeyCheck:
    """For one event loop; `close` it. `find` is the table's; `now_ms` the wall clock."""

    def __init__(self, find: Callable[[str], ApiKey | None], now_ms: Callable[[], int]) -> None:
        self._find = find
        self._now_ms = now_ms
        #: By the SHA-256 of a text: nobody can choose a digest to learn from how long it is looked for.
        self._remembered: OrderedDict[bytes, tuple[ApiKey, int]] = OrderedDict()
        self._waiting: dict[bytes, asyncio.Task[ApiKey | None]] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="key-check")
        #: How many hashes were computed.
        self.hashes = 0

    def known(self, text: str) -> ApiKey | None:
        """The key of this text if it was checked before and is still valid. Costs nothing."""
        digest = _digest(text)
        key, until_ms = self._remembered.get(digest, (None, 0))
        if key is None:
            return None
        if self._find(key.id) is not key or (until_ms and self._now_ms() >= until_ms):
            del self._remembered[digest]
            return None
        self._remembered.move_to_end(digest)
        return key

    async def check(self, text: str) -> ApiKey | None:
        """The key of this text, None when it is none that is valid now. BusyError when too many wait."""
        if parse_key(text) is None:  # its form is public: nothing is learnt from a quick no
            return None
        if (key := self.known(text)) is not None:
            return key
        digest = _digest(text)
        task = self._waiting.get(digest)
        if task is None:
            if len(self._waiting) >= WAITING_MAX:
                raise BusyError("too many new keys at once; try again")
            task = self._waiting[digest] = asyncio.create_task(self._compute(text, digest))
        return await asyncio.shield(task)  # others may wait for the same answer

    async def compute(self, make: Callable[[], T]) -> T:
        """The answer of what computes hashes as well, as a new key does: in its turn on these threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, make)

    async def close(self) -> None:
        """Give up what waits."""
        for task in list(self._waiting.values()):
            task.cancel()
        await asyncio.gather(*self._waiting.values(), return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _compute(self, text: str, digest: bytes) -> ApiKey | None:
        try:
            parsed = parse_key(text)
            assert parsed is not None
            key_id, secret = parsed
            key = self._find(key_id) or NOBODY
            self.hashes += 1
            hashed = await self.compute(lambda: key.hashed(secret))
            if key is NOBODY:
                return None
            until_ms = key.valid_until_ms(hashed, self._now_ms())
            if until_ms is None or self._find(key_id) is not key:  # it may have changed meanwhile
                return None
            self._remember(digest, key, until_ms)
            return key
        finally:
            del self._waiting[digest]

    def _remember(self, digest: bytes, key: ApiKey, until_ms: int) -> None:
        self._remembered[digest] = (key, until_ms)
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
