"""Who a request really came from, behind proxies that are trusted, and whether such an address is allowed.

Pure. A header is believed as far as trusted proxies wrote it: read from the right, each entry was added by the address
after it. What stands further left anybody may have written. This file opens no connection; addresses that may be
connected to are another matter (`connectors/address_guard.py`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

HOPS_MAX = 32
#: RFC 7239, section 4: pairs with `;` between them, elements with `,`; a value is a token or quoted.
_PAIR_PATTERN = re.compile(r'\s*([A-Za-z0-9-]+)=(?:"([^"\\]*)"|([^\s",;=]*))\s*')


@lru_cache(maxsize=10_000)
def network(text: str) -> Network:
    """A network as CIDR, or one address; ValueError with a sentence for anything else."""
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError:
        raise ValueError(f"{text[:80]!r} is no network as CIDR, such as 192.0.2.0/24") from None


def contains(networks: Sequence[str], address: Address) -> bool:
    """Whether the address is in one of the networks, by CIDR."""
    return any(address in network(text) for text in networks if network(text).version == address.version)


def client_address(
    peer: str, forwarded_for: Sequence[str], forwarded: Sequence[str], trusted: Sequence[str]
) -> Address | None:
    """The address of the client: the last one that no trusted proxy has, from the connection to the left.

    `forwarded_for` are the values of X-Forwarded-For and `forwarded` those of Forwarded (RFC 7239), in their order.
    Where both are there and disagree, one of them was not written by the proxies: None, as for what is no address.
    """
    current = _address(peer)
    if current is None:
        return None
    chains = [hops for hops in (_forwarded_for(forwarded_for), _forwarded(forwarded)) if hops]
    found = {_walk(current, hops, trusted) for hops in chains}
    if not found:
        return current
    return found.pop() if len(found) == 1 else None


def _walk(peer: Address, hops: Sequence[str], trusted: Sequence[str]) -> Address | None:
    current: Address | None = peer
    for hop in reversed(hops[-HOPS_MAX:]):
        if current is None or not contains(trusted, current):
            return current
        current = _address(hop)
    return current


def _forwarded_for(values: Sequence[str]) -> list[str]:
    return [hop.strip() for hop in ",".join(values).split(",")] if values else []


def _forwarded(values: Sequence[str]) -> list[str]:
    """The `for` of every element; an empty text, which is no address, where it has none or cannot be read."""
    hops = []
    for element in ",".join(values).split(",") if values else ():
        found = ""
        for pair in element.split(";"):
            match = _PAIR_PATTERN.fullmatch(pair)
            if match and match[1].lower() == "for":
                found = match[2] if match[2] is not None else match[3]
        hops.append(found)
    return hops


def _address(text: str) -> Address | None:
    """An address with or without a port; IPv4 in IPv6 (RFC 4291, 2.5.5.2) as IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address
