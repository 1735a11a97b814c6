"""Running a command: on uvloop, with signals that stop it in order, and with every error as one sentence.

This file knows no command.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import traceback
from collections.abc import Awaitable, Callable
from typing import TypeVar

import typer
import uvloop
from confluent_kafka import KafkaException

from streams.cli.output import complain, note, watching

T = TypeVar("T")

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class CommandError(Exception):
    """A command cannot do what it was asked to; one sentence with the next step."""


def run(main: Callable[[asyncio.Event], Awaitable[T]], *, graceful: bool = False) -> T:
    """Run `main(stop)` on uvloop and return what it returns.

    The first SIGINT or SIGTERM sets `stop`; unless `main` is `graceful` and looks at it, it is also cancelled, and the
    exit code is 130. The second one ends the process at once, also with 130.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_signalled(main, graceful))


async def _until_signalled(main: Callable[[asyncio.Event], Awaitable[T]], graceful: bool) -> T:
    stop = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None

    def on_signal() -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)  # nothing that still runs may hold this up
        stop.set()
        if graceful:
            note("stopping in order; once more to stop at once")
        else:
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        return await main(stop)
    except asyncio.CancelledError:
        if stop.is_set():
            raise typer.Exit(INTERRUPTED) from None
        raise


def report(error: Exception, *, debug: bool) -> None:
    """The error's sentence on stderr, with the traceback when debugging."""
    if debug:
        watching.print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)
    complain(sentence(error))


def sentence(error: Exception) -> str:
    """What went wrong and what to do, in one line."""
    match error:
        case CommandError():
            text = str(error)
        case ConnectionError() if error.errno is None:  # ours, as ClusterError; the system's have a number
            text = str(error)
        case _ if isinstance(error, importlib.import_module("streams.cli.sentences").SENTENCES):
            text = str(error)
        case KafkaException():
            text = f"Kafka: {error.args[0].str()}; check the cluster and the settings (--debug shows where)"
        case OSError():
            named = f" {error.filename!r}" if error.filename else ""
            text = f"the system refuses{named}: {error.strerror or error}; check that it exists and may be used"
        case _:
            text = f"{type(error).__name__}: {error}; this is a defect, please report it with what --debug shows"
    return " ".join(text.split())
