"""Signals: the first one stops in order, the second one at once; a reader who has enough ends the writer quietly."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.local_kafka import Cluster
from tests.cli import ROOT, Cli, command

#: A command that looks at `stop` and one that does not; both say when they run and when they are cleaned up.
PROGRAM = """
import asyncio, sys, typer
from streams.cli.running import run

async def main(stop):
    try:
        print("running", flush=True)
        await asyncio.sleep(1000)
    finally:
        print("cleaned up", flush=True)

try:
    run(main, graceful=sys.argv[1] == "graceful")
except typer.Exit as exit:
    sys.exit(exit.exit_code)
"""


@contextmanager
def running(kind: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_cancels_what_does_not_look_at_it(number: signal.Signals) -> None:
    with running("ordinary") as process:
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
        assert out == "cleaned up\n"
        assert process.returncode == 130


def test_the_second_signal_ends_what_is_still_stopping() -> None:
    with running("graceful") as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGTERM)
        assert "stopping in order; once more to stop at once" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert out == ""  # not even cleaned up
        assert process.returncode == 130


def test_a_reader_who_has_enough_is_no_error(tmp_path: Path, kafka: Cluster, prefix: str) -> None:
    cli = Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix})
    cli.run("topics", "apply")
    cli.run("send", "--type", "a", "--count", "20000")
    watch = command("tail", "events", "--from-beginning", "--no-follow", "--json")
    with subprocess.Popen(
        watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=cli.env()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1
