"""The address guard: which IP addresses a delivery may connect to (protection against SSRF).

It judges one address at a time, the one about to be connected to, so a name that resolves differently a
moment later gains nothing. It does NOT resolve names, does NOT connect and knows nothing about URLs.

The table follows the IANA special-purpose address registries (RFC 6890 and its updates).
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

VERDICTS_CACHED_MAX = 4_096

#: Tables of (network, what it is). Opened by `allow_private`: what an operator's own network is made of.
_PRIVATE: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(cidr), kind)
    for cidr, kind in (
        ("127.0.0.0/8", "a loopback address"),
        ("10.0.0.0/8", "a private address"),
        ("172.16.0.0/12", "a private address"),
        ("192.168.0.0/16", "a private address"),
        ("100.64.0.0/10", "a carrier-grade NAT address"),
        ("::1/128", "a loopback address"),
        ("fc00::/7", "a unique local address"),
    )
)
#: Never opened by `allow_private`: cloud metadata lives on link-local addresses, and nothing else here is an
#: endpoint.
_SPECIAL: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(cidr), kind)
    for cidr, kind in (
        ("0.0.0.0/8", "an unspecified address"),
        ("169.254.0.0/16", "a link-local address"),
        ("168.63.129.16/32", "a cloud platform address"),
        ("100.100.100.200/32", "a cloud metadata address"),
        ("fd00:ec2::254/128", "a cloud metadata address"),
        ("fd20:ce::254/128", "a cloud metadata address"),
        ("192.0.0.0/24", "reserved for protocol assignments"),
        ("192.0.2.0/24", "a documentation address"),
        ("192.88.99.0/24", "a 6to4 relay address"),
        ("198.18.0.0/15", "a benchmark address"),
        ("198.51.100.0/24", "a documentation address"),
        ("203.0.113.0/24", "a documentation address"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::/128", "an unspecified address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a site-local address"),
        ("ff00::/8", "a multicast address"),
        ("2001:2::/48", "a benchmark address"),
        ("2001:db8::/32", "a documentation address"),
        ("3fff::/20", "a documentation address"),
    )
)
#: IPv6 forms that carry IPv4 addresses: (network, name, places as (bits to shift right by, inverted)).
_EMBEDDING: tuple[tuple[IPv6Network, str, tuple[tuple[int, bool], ...]], ...] = (
    (IPv6Network("::ffff:0:0:0/96"), "an IPv4-translated address", ((0, False),)),  # RFC 2765
    (IPv6Network("64:ff9b::/96"), "a NAT64 address", ((0, False),)),  # RFC 6052
    (IPv6Network("2002::/16"), "a 6to4 address", ((80, False),)),  # RFC 3056
    (IPv6Network("2001::/32"), "a Teredo address", ((64, False), (0, True))),  # RFC 4380: server, client
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # RFC 4291 section 2.4
_PROTOCOL_ASSIGNMENTS = IPv6Network("2001::/23")  # RFC 2928


class AddressGuard:
    """Decides whether an address may be connected to.

    `deny` CIDRs win over everything; `allow` CIDRs win over what is refused by default; `allow_private` opens
    loopback, private, carrier-grade NAT and unique local addresses, but never link-local ones (cloud
    metadata): those need an `allow`. ValueError with a sentence when a CIDR is not one.
    """

    def __init__(self, allow_private: bool = False, allow: Sequence[str] = (), deny: Sequence[str] = ()) -> None:
        self._refused = _SPECIAL if allow_private else (*_SPECIAL, *_PRIVATE)
        self._opened = tuple(network for network, _ in _PRIVATE) if allow_private else ()
        self._allow = tuple(_network(cidr) for cidr in allow)
        self._deny = tuple(_network(cidr) for cidr in deny)
        self._cached = lru_cache(VERDICTS_CACHED_MAX)(self._judge)

    def refusal(self, address: str) -> str | None:
        """Why `address` (an IP address as text) must not be connected to, as a sentence; None when it may."""
        return self._cached(address)

    @property
    def verdicts_cached(self) -> int:
        """How many addresses are remembered, at most `VERDICTS_CACHED_MAX`."""
        return self._cached.cache_info().currsize

    def _judge(self, text: str) -> str | None:
        try:
            address = ip_address(text)
        except ValueError:
            return f"{text[:64]!r} is not an IP address."
        if isinstance(address, IPv6Address):
            if address.scope_id is not None:
                return f"{text} names a network interface, which an endpoint must not."
            # The kernel connects to a mapped address over IPv4: it is that IPv4 address.
            address = address.ipv4_mapped or address
        embedded = tuple(_embedded(address))
        if any(_in(one, self._deny) for one in (address, *(inner for inner, _ in embedded))):
            return f"{text} is denied by the configuration."
        if _in(address, self._allow):
            return None
        kind = self._kind(address)
        if embedded:
            refused = ((form, self._kind(inner)) for inner, form in embedded if not _in(inner, self._allow))
            kind = next((f"{form} holding {inner}" for form, inner in refused if inner), None)
        return None if kind is None else f"{text} is {kind}; allow its network if it is meant to be an endpoint."

    def _kind(self, address: Address) -> str | None:
        """What makes an address unsuitable by default, embedded ones aside; None when nothing does."""
        for network, kind in self._refused:
            if address in network:
                return kind
        if isinstance(address, IPv4Address) or _in(address, self._opened):
            return None
        if address not in _GLOBAL_UNICAST or address in _PROTOCOL_ASSIGNMENTS:
            return "a reserved address"
        return None


def _embedded(address: Address) -> Iterator[tuple[IPv4Address, str]]:
    """The IPv4 addresses inside an IPv6 address, each with the name of the form that carries it."""
    for network, form, places in _EMBEDDING:
        if address in network:
            for shift, inverted in places:
                bits = int(address) >> shift & 0xFFFFFFFF
                yield IPv4Address(bits ^ 0xFFFFFFFF if inverted else bits), form


def _in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _network(cidr: str) -> Network:
    try:
        return ip_network(cidr)
    except ValueError as error:
        raise ValueError(f"{cidr!r} is not a network: {error}; write it like 10.0.0.0/8 or fd00::/8.") from None
