"""Host names to addresses, with a bounded cache: concurrent look-ups of one name are a single look-up.

Shared by both senders. It does NOT judge addresses (`address_guard`) and does NOT connect.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

ADDRESSES_MAX = 8
FRESH_S = 30.0
FAILURE_FRESH_S = 2.0
NAMES_MAX = 10_000

#: From a host name to its addresses in text form, in the order to try them. OSError when there are none.
Lookup = Callable[[str], Awaitable[Sequence[str]]]


async def system_lookup(host: str) -> Sequence[str]:
    """The operating system's answer (hosts file, DNS), in its order of preference (RFC 6724)."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(sockaddr[0]) for *_, sockaddr in found]


#: When it is stale (loop time), the addresses, and why there are none.
_Answer = tuple[float, tuple[str, ...], str]


class NameNotResolvedError(Exception):
    """The host name has no address; the text is a sentence for people."""


class Resolver:
    """Keeps answers for `FRESH_S`, failures for `FAILURE_FRESH_S`, of the last `names_max` names."""

    def __init__(self, lookup: Lookup = system_lookup, names_max: int = NAMES_MAX) -> None:
        self._lookup = lookup
        self._names_max = names_max
        self._answers: dict[str, tuple[float, tuple[str, ...], str]] = {}  # stale at, addresses, or why there are none
        self._asking: dict[str, asyncio.Task[_Answer]] = {}

    async def addresses(self, host: str) -> tuple[str, ...]:
        """The addresses of a name, 1 to `ADDRESSES_MAX`; `NameNotResolvedError` when there are none."""
        answer = self._answers.get(host)
        if answer is None or asyncio.get_running_loop().time() >= answer[0]:
            task = self._asking.get(host)
            if task is None:
                task = self._asking[host] = asyncio.ensure_future(self._ask(host))
            # A caller that gives up must not cancel the look-up of the others.
            answer = await asyncio.shield(task)
        _, addresses, failure = answer
        if failure:
            raise NameNotResolvedError(failure)
        return addresses

    async def close(self) -> None:
        """Cancel the look-ups under way and forget every answer."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._answers.clear()

    async def _ask(self, host: str) -> _Answer:
        addresses: tuple[str, ...] = ()
        reason = "it has no address"
        try:
            addresses = tuple(dict.fromkeys(await self._lookup(host)))[:ADDRESSES_MAX]
        except Exception as error:  # noqa: BLE001 - whatever an injected look-up raises means: no address
            system_reason = error.strerror if isinstance(error, OSError) else None
            reason = system_reason or str(error) or type(error).__name__
        finally:
            del self._asking[host]
        self._answers.pop(host, None)  # so that a refreshed name counts as the youngest
        if len(self._answers) >= self._names_max:
            del self._answers[next(iter(self._answers))]
        failure = "" if addresses else f"The name {host} did not resolve: {reason}."
        fresh_s = FAILURE_FRESH_S if failure else FRESH_S
        answer = asyncio.get_running_loop().time() + fresh_s, addresses, failure
        self._answers[host] = answer
        return answer
