"""A worker as a process, for tests that kill it: settings from DISTRIBUTARY_*, roles as arguments; prints `ready`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import get_args

import uvloop

from streams.app import Worker
from streams.settings import Settings
from streams.wiring import Role


def ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


async def main() -> None:
    logging.basicConfig(level="INFO", format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    roles = [role for role in get_args(Role) if role in sys.argv[1:]]
    await Worker(Settings(), roles, on_ready=ready).run(stop)


if __name__ == "__main__":
    uvloop.run(main())
