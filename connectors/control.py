"""Orders to a helper process (`faulty_receiver.py`, `cutter.py`): a JSON value on a line, answered by another.

On 127.0.0.1, for whoever started the helper (`helper`): no authentication, one order at a time. A helper says where it
takes orders in the first line that it prints, and dies with who started it. Nothing here knows what the orders mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from connectors.clock import SystemClock
from connectors.guardian import Guarded, guarded

ORDER_BYTES_MAX = 1 << 20
START_SECONDS = 30.0
ANSWER_SECONDS = 10.0
_LOOK_SECONDS = 0.05


class ControlError(ConnectionError):
    """The helper does not answer, or refuses; one sentence."""


class Control:
    """Gives orders. An async context manager; ControlError when the helper has gone."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        try:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=ORDER_BYTES_MAX)
        except OSError as error:
            raise ControlError(f"the helper on port {self._port} does not answer: {error.strerror}") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, order: dict[str, Any]) -> Any:
        """The answer to an order."""
        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    self._writer.write(msgspec.json.encode(order) + b"\n")
                    line = await self._reader.readline()
            except (OSError, TimeoutError):
                line = b""
        if not line:
            raise ControlError(f"the helper on port {self._port} has gone")
        answer = msgspec.json.decode(line)
        if "error" in answer:
            raise ControlError(f"the helper on port {self._port} refuses {order}: {answer['error']}")
        return answer["answer"]


class Helper(msgspec.Struct, frozen=True):
    """A running helper: what its first line said, and where it takes orders."""

    said: dict[str, Any]
    control: Control
    process: Guarded


@contextlib.asynccontextmanager
async def helper(module: str, *arguments: str, log: Path) -> AsyncIterator[Helper]:
    """`python -m module arguments`, until the block is left. ControlError when it does not start."""
    with guarded([sys.executable, "-m", module, *arguments], log=log, grace_seconds=2.0) as process:
        clock = SystemClock()
        deadline = clock.monotonic() + START_SECONDS
        while "\n" not in (said := _read(log)) or not said.startswith("{"):
            if process.ended() or clock.monotonic() > deadline:
                last = (said.splitlines() or ["it said nothing"])[-1]
                raise ControlError(f"the helper {module} did not start: {last}")
            await asyncio.sleep(_LOOK_SECONDS)
        first = msgspec.json.decode(said.splitlines()[0])
        async with Control(first["control"]) as control:
            yield Helper(first, control, process)


def _read(log: Path) -> str:
    return log.read_text() if log.exists() else ""


# --- inside a helper --------------------------------------------------------------------------------------------------


async def take_orders(handle: Callable[[dict[str, Any]], Any]) -> asyncio.Server:
    """Listen on a free port (`port_of`). A KeyError, TypeError or ValueError of `handle` is answered as a refusal."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                try:
                    answer = {"answer": handle(msgspec.json.decode(line))}
                except (KeyError, TypeError, ValueError) as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                writer.write(msgspec.json.encode(answer) + b"\n")
        finally:
            writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0, limit=ORDER_BYTES_MAX)


def port_of(server: Any) -> int:
    """Where it listens. `server`: asyncio's or uvloop's, which share no class with sockets."""
    return int(server.sockets[0].getsockname()[1])


async def until_stopped(**said: Any) -> None:
    """Print what is said as the first line, and wait for SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
    sys.stdout.flush()
    await stop.wait()
