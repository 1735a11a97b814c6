"""A small DNS server on UDP whose answers a test changes at will, and a look-up that asks it and nobody else.

Answers are A, AAAA and CNAME records (RFC 1035 sections 4 and 3.3.1, RFC 3596), with a time to live of 0. The look-up
does not use the system's resolver, so nothing of this machine's configuration matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from ipaddress import ip_address
from typing import Any

A, CNAME, AAAA = 1, 5, 28
NAME_ERROR = 3


class DnsServer(asyncio.DatagramProtocol):
    """`answers` holds, for each name, what it is answered with in turn, the last one for ever: addresses, or one name
    that it is an alias of. `asked` are the questions so far, as (name, type)."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[tuple[str, int]] = []
        self.port = 0
        self._transport: Any = None

    def says(self, name: str, *answers: list[str]) -> None:
        """From now on."""
        self.answers[name] = list(answers)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name, end = _name(data, 12)
        (kind,) = struct.unpack_from(">H", data, end)
        self.asked.append((name, kind))
        known = self.answers.get(name)
        records = b"".join(_records(known[0], kind)) if known else b""
        count = sum(1 for _ in _records(known[0], kind)) if known else 0
        # One question about a name is two: the turn ends with the second, about IPv6.
        if known and len(known) > 1 and kind == AAAA:
            known.pop(0)
        head = struct.pack(">2sHHHHH", data[:2], 0x8180 | (0 if known else NAME_ERROR), 1, count, 0, 0)
        self._transport.sendto(head + data[12 : end + 4] + records, addr)

    async def lookup(self, host: str) -> Sequence[str]:
        """As `connectors.resolver.Lookup`: the addresses of a name, aliases followed by further questions."""
        for _ in range(8):
            found = [record for kind in (A, AAAA) for record in await self._ask(host, kind)]
            if aliases := [text for kind, text in found if kind == CNAME]:
                host = aliases[0]
                continue
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [text for _, text in found]
        raise socket.gaierror(socket.EAI_FAIL, "Too many aliases")

    async def _ask(self, host: str, kind: int) -> list[tuple[int, str]]:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setblocking(False)
            asking.connect(("127.0.0.1", self.port))
            question = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + _encoded(host) + struct.pack(">HH", kind, 1)
            await loop.sock_sendall(asking, question)
            async with asyncio.timeout(60):
                return list(_read(await loop.sock_recv(asking, 4_096)))


@contextlib.asynccontextmanager
async def dns_server() -> AsyncIterator[DnsServer]:
    """One on a free port of 127.0.0.1, until the block ends."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(DnsServer, local_addr=("127.0.0.1", 0))
    server.port = transport.get_extra_info("sockname")[1]
    try:
        yield server
    finally:
        transport.close()


def _records(answer: list[str], kind: int) -> Iterator[bytes]:
    for text in answer:
        try:
            packed = ip_address(text).packed
        except ValueError:
            data, type_ = _encoded(text), CNAME
        else:
            data, type_ = packed, A if len(packed) == 4 else AAAA
        if type_ in (kind, CNAME):
            yield b"\xc0\x0c" + struct.pack(">HHIH", type_, 1, 0, len(data)) + data


def _read(message: bytes) -> Iterator[tuple[int, str]]:
    (count,) = struct.unpack_from(">H", message, 6)
    _, place = _name(message, 12)
    place += 4
    for _ in range(count):
        _, place = _name(message, place)
        kind, _, _, length = struct.unpack_from(">HHIH", message, place)
        place += 10
        data = message[place : place + length]
        yield kind, _name(message, place)[0] if kind == CNAME else str(ip_address(data))
        place += length


def _encoded(name: str) -> bytes:
    labels = name.rstrip(".").split(".")
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


def _name(message: bytes, place: int) -> tuple[str, int]:
    """The name at a place, and the place behind it."""
    labels: list[str] = []
    while length := message[place]:
        if length >= 0xC0:  # a pointer ends it
            rest, _ = _name(message, struct.unpack_from(">H", message, place)[0] & 0x3FFF)
            return ".".join([*labels, rest]), place + 2
        labels.append(message[place + 1 : place + 1 + length].decode())
        place += length + 1
    return ".".join(labels), place + 1
