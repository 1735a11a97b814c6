"""Where the engine itself listens and where its Kafka and registry do: no endpoint may be there.

A listener is an address and a port. One that is on this machine counts on every address of this machine, since most
listen on all of them. This file looks names up once, and does NOT decide anything else about addresses
(`address_guard`).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from connectors.resolver import Lookup, system_lookup

Address = IPv4Address | IPv6Address

#: As the host of a listener: every address of this machine.
ANY = "*"


def is_ours(address: Address) -> bool:
    """Whether this machine has the address now: the system lets only those be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


class OwnListeners:
    """`places` are (address as text or `ANY`, port); `ours` says which addresses are this machine's."""

    def __init__(self, places: Collection[tuple[str, int]] = (), *, ours: Callable[[Address], bool] = is_ours) -> None:
        self._ours = ours
        self._here = frozenset(port for host, port in places if host == ANY or ours(_plain(host)))
        self._elsewhere = frozenset((_plain(host), port) for host, port in places if host != ANY)

    def holds(self, address: Address, port: int) -> bool:
        """Whether a connection to the address and port would reach one of them."""
        return (address, port) in self._elsewhere or (port in self._here and self._ours(address))


def _plain(text: str) -> Address:
    address = ip_address(text)
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


async def find_listeners(places: Iterable[tuple[str, int]], lookup: Lookup = system_lookup) -> OwnListeners:
    """The same for host names, each looked up once, now; a name without addresses cannot be connected to either."""
    found: set[tuple[str, int]] = set()
    for host, port in set(places):
        if host == ANY:
            found.add((host, port))
            continue
        try:
            found.update((str(ip_address(address.split("%")[0])), port) for address in await lookup(host))
        except (OSError, ValueError):
            continue
    return OwnListeners(found)


def place(text: str) -> tuple[str, int]:
    """(host, port) of `host:port`, `[address]:port` or `*:port`; ValueError with a sentence for anything else."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.path or "@" in text:
        raise ValueError(
            f"{text!r} is not a listener; write it as host:port, [address]:port, or *:port for this machine."
        )
    return host, port


def place_of_url(url: str) -> tuple[str, int]:
    """(host, port) of an http(s) URL; ValueError when it has no host."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError(f"{url!r} has no host; write it as https://host:port.")
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
