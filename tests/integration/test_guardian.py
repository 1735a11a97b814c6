"""What runs under guard goes with its owner, whichever of the two dies first and however."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from connectors.guardian import guarded
from tests.helpers import eventually

WAIT = "import sys, threading; print('up', flush=True); threading.Event().wait()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}"
WITH_CHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {WAIT!r}]); {WAIT}"
OWNER = """
import sys
from pathlib import Path
from connectors.guardian import guarded
with guarded([sys.executable, "-c", sys.argv[1]], log=Path(sys.argv[2]), remove=Path(sys.argv[3])):
    print("guarding", flush=True)
    sys.stdin.read()
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def up(log: Path, count: int = 1) -> None:
    eventually(lambda: log.exists() and log.read_text().count("up") == count, message="the command is up")


def family(log: Path) -> list[psutil.Process]:
    """The guardian that writes to `log`, and everything below it."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if "guardian.py" in " ".join(command) and str(log) in command[-1]:
                return [process, *process.children(recursive=True)]
    return []


def gone(processes: list[psutil.Process]) -> bool:
    return not any(map(alive, processes))


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # between the two questions
        return False


def test_commands_run_one_after_another_and_their_end_is_seen(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with guarded(python("print(1)"), python("print(2)"), log=log) as commands:
        eventually(commands.ended)
    assert log.read_text() == "1\n2\n"


def test_a_failed_command_ends_the_row(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with guarded(python("print(1); raise SystemExit(3)"), python("print(2)"), log=log) as commands:
        eventually(commands.ended)
    assert log.read_text() == "1\n"


def test_a_command_that_does_not_start_is_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with guarded([str(tmp_path / "missing")], log=log) as commands:
        eventually(commands.ended)
    assert "missing does not start: " in log.read_text()


def test_a_signal_goes_to_the_command(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with guarded(python(WAIT), log=log) as commands:
        up(log)
        _, command = family(log)
        commands.signal(signal.SIGSTOP)
        eventually(lambda: command.status() == psutil.STATUS_STOPPED, message="it stands still")
        commands.signal(signal.SIGCONT)
        eventually(lambda: command.status() != psutil.STATUS_STOPPED, message="it goes on")
        assert not commands.ended()
        commands.signal(signal.SIGKILL)
        eventually(commands.ended)
        commands.signal(signal.SIGKILL)  # to nobody
    eventually(lambda: gone([command]), message="it has gone")


def test_a_command_that_stands_still_is_stopped_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with guarded(python(WAIT), log=log, grace_seconds=0.2) as commands:
        up(log)
        processes = family(log)
        commands.signal(signal.SIGSTOP)
        eventually(lambda: processes[1].status() == psutil.STATUS_STOPPED, message="it stands still")
    eventually(lambda: gone(processes), message="every process has gone")


@pytest.mark.parametrize(("code", "ups"), [(WAIT, 1), (STUBBORN, 1), (WITH_CHILD, 2)])
def test_leaving_the_block_stops_the_whole_group_and_removes_the_directory(tmp_path: Path, code: str, ups: int) -> None:
    home = tmp_path / "home"
    home.mkdir()
    log = home / "log"
    with guarded(python(code), log=log, remove=home, grace_seconds=0.2) as commands:
        up(log, ups)
        assert not commands.ended()
        processes = family(log)
        assert len(processes) == 1 + ups
    assert not home.exists()
    eventually(lambda: gone(processes), message="every process has gone")


def test_killing_the_owner_stops_the_command_and_removes_the_directory(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    log = home / "log"
    arguments = [WAIT, str(log), str(home)]
    with subprocess.Popen([*python(OWNER), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"guarding\n"
        up(log)
        processes = family(log)
        assert len(processes) == 2
        owner.kill()
    eventually(lambda: gone(processes), message="guardian and command have gone")
    assert not home.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_killing_the_guardian_takes_the_command_with_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    log = home / "log"
    with guarded(python(WAIT), log=log, remove=home) as commands:
        up(log)
        guardian, command = family(log)
        guardian.kill()
        eventually(lambda: gone([command]), message="the command has gone")
        assert commands.ended()
        commands.signal(signal.SIGKILL)  # to nobody
    assert not home.exists()
