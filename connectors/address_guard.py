"""The address guard: where a delivery may connect to (protection against SSRF).

It judges one address and port at a time, those about to be connected to, so a name that resolves differently a moment
later gains nothing. What can be said of a URL before its name is resolved is said early. It does NOT resolve names and
does NOT connect. Users read about it in docs/reference/address-guard.md.

The table follows the IANA special-purpose address registries (RFC 6890 and its updates).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from connectors.own_listeners import OwnListeners

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from connectors.http_target import Target

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

VERDICTS_CACHED_MAX = 4_096
PORT_MAX = 65_535

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
        ("100.100.100.200/32", "a cloud metadata address"),  # Alibaba Cloud
        ("fd00:ec2::/32", "a cloud metadata address"),  # AWS: instances, containers, Pod Identity, DNS, time
        ("fd20:ce::254/128", "a cloud metadata address"),  # Google Cloud
        ("fd00:c1::a9fe:a9fe/128", "a cloud metadata address"),  # Oracle Cloud
        ("fd00:42::42/128", "a cloud metadata address"),  # Scaleway
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
#: Names of metadata services. Their addresses are refused too; the names are, where a proxy resolves them.
METADATA_NAMES = frozenset(
    {
        "instance-data",
        "instance-data.ec2.internal",
        "metadata",
        "metadata.azure.internal",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.packet.net",
        "metadata.platformequinix.com",
        "metadata.tencentyun.com",
        "rancher-metadata",
    }
)
#: IPv6 forms that carry IPv4 addresses: (network, name, places as (bits to shift right by, inverted)).
_EMBEDDING: tuple[tuple[IPv6Network, str, tuple[tuple[int, bool], ...]], ...] = (
    (IPv6Network("::ffff:0:0:0/96"), "an IPv4-translated address", ((0, False),)),  # RFC 2765
    (IPv6Network("64:ff9b::/96"), "a NAT64 address", ((0, False),)),  # RFC 6052
    (IPv6Network("2002::/16"), "a 6to4 address", ((80, False),)),  # RFC 3056
    (IPv6Network("2001::/32"), "a Teredo address", ((64, False), (0, True))),  # RFC 4380: server, client
)
_IPV4_COMPATIBLE = IPv6Network("::/96")  # RFC 4291 section 2.5.5.1, deprecated
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")  # RFC 8215
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # RFC 4291 section 2.4
_PROTOCOL_ASSIGNMENTS = IPv6Network("2001::/23")  # RFC 2928
#: RFC 5214 section 6.1: an interface identifier of 0000:5efe or 0200:5efe, then the IPv4 address.
_ISATAP_MARKS = frozenset({0x00005EFE, 0x02005EFE})


class AddressGuard:
    """Decides what may be connected to.

    `deny` CIDRs win over everything; `allow` CIDRs win over what is refused by default; `allow_private` opens
    loopback, private, carrier-grade NAT and unique local addresses, but never link-local ones (cloud
    metadata): those need an `allow`. Plain HTTP goes to addresses that are not public, once they are opened, and with
    `allow_http` to public ones too. `deny_ports` are numbers and ranges ("1-79"). ValueError with a sentence when a
    CIDR or a range is not one.
    """

    def __init__(
        self,
        allow_private: bool = False,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        *,
        allow_http: bool = False,
        deny_ports: Sequence[str] = (),
        own: OwnListeners | None = None,
    ) -> None:
        self._allow_private = allow_private
        self._allow = tuple(_network(cidr) for cidr in allow)
        self._deny = tuple(_network(cidr) for cidr in deny)
        self._allow_http = allow_http
        self._deny_ports = frozenset(port for each in deny_ports for port in _ports(each))
        self._own = own or OwnListeners()
        self._cached = lru_cache(VERDICTS_CACHED_MAX)(self._judge)

    def refusal(self, address: str, port: int, *, tls: bool) -> str | None:
        """Why `address` (as text) and port must not be connected to, as a sentence; None when they may."""
        return self._cached(address, port, tls)

    def target_refusal(self, target: Target, *, proxied: bool = False) -> str | None:
        """Why a URL is refused before its name is resolved, as a sentence; None when that is not known yet.

        With `proxied` nothing more will be known: a proxy resolves the name.
        """
        if target.is_address:
            return self.refusal(target.host, target.port, tls=target.tls)
        if target.host.removesuffix(".") in METADATA_NAMES:
            return f"{target.host} is the name of a cloud metadata service, which is never an endpoint."
        if target.port in self._deny_ports:
            return _denied_port(target.port)
        if proxied and not (target.tls or self._allow_http or self._allow_private):
            return _unencrypted(target.host)
        return None

    @property
    def verdicts_cached(self) -> int:
        """How many addresses are remembered, at most `VERDICTS_CACHED_MAX`."""
        return self._cached.cache_info().currsize

    def _judge(self, text: str, port: int, tls: bool) -> str | None:
        try:
            address = ip_address(text)
        except ValueError:
            return f"{text[:64]!r} is not an IP address."
        if isinstance(address, IPv6Address):
            if address.scope_id is not None:
                return f"{text} names a network interface, which an endpoint must not."
            # The kernel connects to a mapped address over IPv4: it is that IPv4 address.
            address = address.ipv4_mapped or address
        carried = tuple(_carried(address))
        everyone = (address, *(inner for inner, _ in carried), *_hidden(address))
        if any(_in(one, self._deny) for one in everyone):
            return f"{text} is denied by the configuration."
        if any(self._own.holds(one, port) for one in everyone):
            return f"{text} port {port} is where this system itself listens, or its Kafka or schema registry."
        if port in self._deny_ports:
            return _denied_port(port)
        # What is reached is what an address carries; without, the address itself.
        reached: list[tuple[Address, str]] = [(one, f"{form} holding {one}") for one, form in carried]
        kinds = [(one, _kind(one), carrying) for one, carrying in reached or [(address, "")]]
        for one, kind, carrying in kinds:
            opened = kind is None or (kind in _PRIVATE_KINDS and self._allow_private)
            if not (opened or _in(one, self._allow) or _in(address, self._allow)):
                return f"{text} is {carrying or kind}; allow its network if it is meant to be an endpoint."
        if not (tls or self._allow_http) and any(kind is None for _, kind, _ in kinds):
            return _unencrypted(text)
        return None


def _kind(address: Address) -> str | None:
    """What makes an address unsuitable, what it carries aside; None for a public one."""
    for network, kind in _NOT_PUBLIC:
        if address in network:
            return kind
    if isinstance(address, IPv6Address) and (address not in _GLOBAL_UNICAST or address in _PROTOCOL_ASSIGNMENTS):
        return "a reserved address"
    return None


_NOT_PUBLIC = (*_SPECIAL, *_PRIVATE)
_PRIVATE_KINDS = frozenset(kind for _, kind in _PRIVATE)


def _carried(address: Address) -> Iterator[tuple[IPv4Address, str]]:
    """The IPv4 addresses that packets for an IPv6 address end up at, each with the name of the form that carries it."""
    if isinstance(address, IPv4Address):
        return
    bits = int(address)
    for network, form, places in _EMBEDDING:
        if address in network:
            for shift, inverted in places:
                inner = bits >> shift & 0xFFFFFFFF
                yield IPv4Address(inner ^ 0xFFFFFFFF if inverted else inner), form
    if address in _GLOBAL_UNICAST and bits >> 32 & 0xFFFFFFFF in _ISATAP_MARKS:
        yield IPv4Address(bits & 0xFFFFFFFF), "an ISATAP address"


def _hidden(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses inside IPv6 addresses that are refused whatever they hold: once allowed, `deny` wins."""
    if isinstance(address, IPv4Address):
        return
    bits = int(address)
    if address in _IPV4_COMPATIBLE or address in _NAT64_LOCAL:
        yield IPv4Address(bits & 0xFFFFFFFF)
    if address in _NAT64_LOCAL:  # RFC 6052 section 2.2, a prefix of 48 bits: 16 bits, an octet of zeros, 16 bits
        yield IPv4Address((bits >> 64 & 0xFFFF) << 16 | bits >> 40 & 0xFFFF)


def _denied_port(port: int) -> str:
    return f"Port {port} is not for webhooks; use 443, 80 or one from 1024 on, or change the setting deny_ports."


def _unencrypted(where: str) -> str:
    return f"{where} would be reached without encryption; use https://, or change the setting allow_http."


def _in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _network(cidr: str) -> Network:
    try:
        return ip_network(cidr)
    except ValueError as error:
        raise ValueError(f"{cidr!r} is not a network: {error}; write it like 10.0.0.0/8 or fd00::/8.") from None


def _ports(text: str) -> range:
    found = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < first <= last <= PORT_MAX:
        raise ValueError(f"{text!r} is neither a port nor a range of ports; write it like 25 or 1-79.")
    return range(first, last + 1)
