"""Ctrl-C while the command line, or the command that was called, is still being imported."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: In place of the module that imports everything: `during` happens in the middle of it, then `after` holds.
SCRIPT = """
import os, signal, sys

class Root:
    @property
    def main(self):
        {during}
        return print

sys.modules["streams.cli.root"] = Root()
import streams.cli
{after}
"""


def imported(*, during: str = "pass", after: str = "pass") -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(during=during, after=after)
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_ends_the_process_without_a_traceback() -> None:
    ended = imported(during="os.kill(os.getpid(), signal.SIGINT)")
    assert ended.returncode == -signal.SIGINT
    assert ended.stdout + ended.stderr == ""


def test_afterwards_it_is_the_command_that_decides() -> None:
    ended = imported(after="assert signal.getsignal(signal.SIGINT) is signal.default_int_handler")
    assert ended.returncode == 0, ended.stderr


def test_who_ignores_it_goes_on_ignoring_it() -> None:
    script = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + SCRIPT.format(
        during="os.kill(os.getpid(), signal.SIGINT)",
        after="assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN",
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_while_the_command_is_imported_it_ends_as_any_interrupted_command() -> None:
    script = """
import os, signal, sys

class Dev:
    @property
    def dev(self):
        os.kill(os.getpid(), signal.SIGINT)

sys.modules["streams.cli.dev"] = Dev()
sys.argv = ["distributary", "dev"]
from streams.cli import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert ended.stdout + ended.stderr == ""
