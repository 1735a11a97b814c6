"""Who calls: from the bearer token of a request to a principal, by API key or portal link.

Every token that is not valid gets the same answer, whatever is wrong with it. Wrong ones are counted for each remote
address (of IPv6 for each /64, which is what one customer has), and for each key id, which may be guessed at from many
addresses: beyond either limit nothing is computed any more for tokens that were never seen to be right. This file does
not say which route needs which scope.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from aiohttp import web

from connectors.api.key_check import BusyError, KeyCheck
from connectors.api.limits import CallRates, Policy
from connectors.api.principal import bearer_token, unauthorized
from connectors.api.problems import ProblemError
from schemas import portal
from schemas.access import Principal
from schemas.api_key import ApiKey, parse_key
from schemas.portal import PortalLink, PortalSigner

#: Wrong tokens from one address, and wrong secrets of one key id: so many at once, and a second.
FAILURES = Policy(rate=1.0, burst=60)
IPV6_CUSTOMER_BITS = 64
BUSY_SECONDS = 1
_REFUSED = "this key is not valid: it is unknown, or it has expired or been revoked; ask whoever gave it to you"


class Who:
    """Implements `Authenticate`. `find` is that of the table of keys; `portal_signer` None: there are no portal
    links."""

    def __init__(
        self,
        find: Callable[[str], ApiKey | None],
        check: KeyCheck,
        portal_signer: PortalSigner | None,
        *,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
        failures: Policy = FAILURES,
    ) -> None:
        self._find = find
        self._check = check
        self._portal = portal_signer
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._by_address = CallRates(failures)
        self._by_key = CallRates(failures)

    async def __call__(self, request: web.Request) -> Principal:
        """See the port. ProblemError 401, or 429 for an address or a key id with too many failures."""
        return await self.principal(bearer_token(request), request.remote or "")

    async def principal(self, token: str, remote: str) -> Principal:
        """Whose token it is. ProblemError as above."""
        key = self._check.known(token)
        if key is not None:
            return _of_key(key)
        counted = [(self._by_address, neighbourhood(remote), "keys from this address")]
        if (parsed := parse_key(token)) is not None:
            counted.append((self._by_key, parsed[0], "tries of this key"))
        for rates, whose, what in counted:
            verdict = rates.take(whose, self._monotonic())
            if verdict is not None and not verdict.allowed:
                sentence = f"too many {what} were not valid; try again in {max(1, verdict.seconds)} s"
                raise ProblemError(429, sentence, headers=verdict.headers())
        found = await self._principal(token)
        if found is None:
            raise unauthorized(_REFUSED, error="invalid_token")
        for rates, whose, _ in counted:
            rates.give_back(whose)
        return found

    async def _principal(self, token: str) -> Principal | None:
        if token.startswith(portal.PREFIX):
            link = self._portal.read(token, self._now_ms()) if self._portal else None
            return self._of_link(link) if link else None
        try:
            key = await self._check.check(token)
        except BusyError as error:
            raise ProblemError(429, str(error), headers={"Retry-After": str(BUSY_SECONDS)}) from None
        return _of_key(key) if key else None

    def _of_link(self, link: PortalLink) -> Principal | None:
        """A link can do no more than the key that made it can now."""
        key = self._find(link.key)
        if key is None or key.state(self._now_ms()) != "active" or key.tenant not in (None, link.tenant):
            return None
        return Principal(
            actor=f"link:{link.id}",
            tenant=link.tenant,
            scopes=frozenset(link.scopes) & frozenset(key.scopes),
            key_id=key.id,
            rate=key.rate,
        )


def _of_key(key: ApiKey) -> Principal:
    return Principal(
        actor=f"key:{key.id}", tenant=key.tenant, scopes=frozenset(key.scopes), key_id=key.id, rate=key.rate
    )


def neighbourhood(remote: str) -> str:
    """What one customer can have of addresses: one of IPv4, also where it is written as IPv6, or a /64."""
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return remote
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, IPV6_CUSTOMER_BITS), strict=False))
    return str(address)
