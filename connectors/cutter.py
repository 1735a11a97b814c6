"""A cable that can be cut: forwards TCP connections to a port of 127.0.0.1, and breaks them when told to.

Brokers of the audit advertise the ports of a cutter, so that every connection between a worker and a broker runs
through it and can be reset, refused, or left standing without a byte (`local_brokers.py`). It looks at no byte.

    python -m connectors.cutter PORT...

prints `{"control": port, "ports": [...]}`, a port for each one to forward to. Orders (`control.py`), each answered with
the number of connections that it met:

- `{"do": "cut", "routes": [0, 2]}` resets the connections there, on both sides;
- `{"do": "refuse", "routes": [...]}` resets them, and nobody listens there until `mend`: as if the process had gone;
- `{"do": "stall", "routes": [...]}` lets them stand, also new ones, without forwarding, until `mend`;
- `{"do": "mend", "routes": [...]}` works as before: what stood still goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import struct
from typing import Any, Literal, cast

import uvloop

from connectors.control import port_of, take_orders, until_stopped

Mode = Literal["forward", "refuse", "stall"]
BACKLOG = 1024
#: l_onoff and l_linger of SO_LINGER: close() sends RST instead of FIN.
RESET = struct.pack("ii", 1, 0)


class Route:
    """A listening port, where it leads, and the connections there."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.mode: Mode = "forward"
        self.ends: set[_End] = set()
        self._server: Any = None
        # Keeps the port while nobody listens. A connection that were accepted and reset instead would be no refusal:
        # clients that see it come again at once, and not later and later.
        self._place = _bound(0)

    async def listen(self) -> int:
        """Its port."""
        port = int(self._place.getsockname()[1])
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _End(self, None), sock=_bound(port), backlog=BACKLOG)
        return port

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        near = [end for end in self.ends if end.near]
        for end in list(self.ends):
            end.reset()
        return len(near)

    def set(self, mode: Mode) -> int:
        """Behave so from now on; how many connections there are."""
        if mode == "refuse" and self.mode != "refuse":
            self._server.close()
        elif mode != "refuse" and self.mode == "refuse":
            self._listening = asyncio.ensure_future(self.listen())
        self.mode = mode
        met = self.cut() if mode == "refuse" else sum(end.near for end in self.ends)
        for end in self.ends:
            end.steer()
        return met


class _End(asyncio.Protocol):
    """One of the two ends of a forwarded connection."""

    transport: asyncio.Transport

    def __init__(self, route: Route, peer: _End | None) -> None:
        self._route = route
        self._peer = peer
        self.near = peer is None
        self._connecting: asyncio.Task[None] | None = None
        self._full = False  # what was written to this end waits in memory
        self._closed = False
        self._early = b""  # read before there was anywhere to write to

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none of asyncio's classes
        self._route.ends.add(self)
        if self._route.mode == "refuse":  # it was in the backlog
            self.reset()
        elif self.near:
            # Later: uvloop starts to read when this returns.
            asyncio.get_running_loop().call_soon(self.steer)
            self._connecting = asyncio.ensure_future(self._connect())
        elif self._peer is not None and not self._peer._closed:
            self._peer._peer = self
            self.transport.write(self._peer._early)
            self._peer._early = b""
            asyncio.get_running_loop().call_soon(self.steer)
            self._peer.steer()
        else:  # the near end went while this one was made
            self.reset()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _End(self._route, self), "127.0.0.1", self._route.target)
        except OSError:  # nobody listens there now: neither does anybody here
            self.reset()

    def steer(self) -> None:
        """Read as long as there is somebody to write to who keeps up, and nothing stands still."""
        peer = self._peer
        if self._closed or self.transport.is_closing():
            return
        if peer is None or peer._full or self._route.mode == "stall":
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._peer is None:
            self._early += data
        else:
            self._peer.transport.write(data)

    def pause_writing(self) -> None:
        self._full = True
        if self._peer is not None:
            self._peer.steer()

    def resume_writing(self) -> None:
        self._full = False
        if self._peer is not None:
            self._peer.steer()

    def reset(self) -> None:
        """End it as if the cable had been cut and somebody had noticed."""
        if not self._closed:
            sock = self.transport.get_extra_info("socket")
            if sock is not None:  # one that is being closed may have none any more
                with contextlib.suppress(OSError, ValueError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        self._route.ends.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._peer is not None and not self._peer._closed:
            if error is None:
                self._peer.transport.close()  # what was written still arrives
            else:
                self._peer.reset()


class Cutter:
    """Routes to `targets`, on ports of their own."""

    def __init__(self, targets: list[int]) -> None:
        self.routes = [Route(target) for target in targets]

    async def listen(self) -> list[int]:
        """Start; the ports."""
        return [await route.listen() for route in self.routes]

    def order(self, order: dict[str, Any]) -> int:
        """Do as ordered; KeyError or ValueError for what makes no sense."""
        named = order["routes"]
        if not all(0 <= number < len(self.routes) for number in named):
            raise ValueError(f"routes are 0 to {len(self.routes) - 1}")
        routes = [self.routes[number] for number in named]
        match order["do"]:
            case "cut":
                return sum(route.cut() for route in routes)
            case "refuse" | "stall" as mode:
                return sum(route.set(mode) for route in routes)
            case "mend":
                return sum(route.set("forward") for route in routes)
            case other:
                raise ValueError(f"{other!r} is no order")


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


async def _serve(targets: list[int]) -> None:
    cutter = Cutter(targets)
    ports = await cutter.listen()
    control = await take_orders(cutter.order)
    await until_stopped(control=port_of(control), ports=ports)


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(prog="python -m connectors.cutter", description="Forward ports; cut when told.")
    parser.add_argument("target", type=int, nargs="+", help="a port of 127.0.0.1 to forward to")
    uvloop.run(_serve(parser.parse_args().target))


if __name__ == "__main__":
    main()
