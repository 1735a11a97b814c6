"""Commands that must not outlive the process that asked for them, not even when it is killed with -9.

`guarded` starts this file as a small process of its own, in its own session, which runs the commands one
after another and holds the read end of a pipe. When the pipe ends, because the owner closed it or died, the
guardian stops the running command with its whole process group, removes a directory if it was asked to, and
goes. So an orderly stop and a crash take the same path. On Linux the commands also die with the guardian.
Signals for the command take the same pipe, a byte each: only the guardian knows whether the process is still its own.

It restarts nothing and reads no output: that goes to the log file. Only the standard library is imported
here, the guardian starts without site-packages. POSIX only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

#: Children of the owner may have inherited the pipe; so the guardian also looks at who its parent is.
PARENT_CHECK_SECONDS = 1.0
#: What a guardian may take for itself, beyond the grace of its command, before it is killed too.
GUARDIAN_SECONDS = 5.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Guarded:
    """Commands under guard. Made by `guarded`."""

    def __init__(self, guardian: subprocess.Popen[bytes]) -> None:
        self._guardian = guardian

    def ended(self) -> bool:
        """Whether the last command has ended, or one failed. Never blocks."""
        report = self._guardian.stdout
        assert report is not None
        readable, _, _ = select.select([report], [], [], 0)
        return bool(readable)

    def signal(self, number: int) -> None:
        """Send a signal to the running command, not to its group; to none when it has ended."""
        orders = self._guardian.stdin
        assert orders is not None
        with contextlib.suppress(BrokenPipeError):  # the guardian was killed, and its command with it
            os.write(orders.fileno(), bytes([number]))


@contextlib.contextmanager
def guarded(
    *commands: Sequence[str], log: Path, remove: Path | None = None, grace_seconds: float = 10.0
) -> Iterator[Guarded]:
    """Run `commands` one after another, each after the one before ended with 0, until the block is left.

    Output is appended to `log`. On leaving, the running command gets SIGTERM, and SIGKILL `grace_seconds`
    later; then the directory `remove` is removed.
    """
    order = {
        "commands": commands,
        "log": str(log),
        "remove": str(remove) if remove else None,
        "grace_seconds": grace_seconds,
        "owner": os.getpid(),
    }
    with subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as guardian:
        try:
            yield Guarded(guardian)
        finally:
            assert guardian.stdin is not None
            guardian.stdin.close()
            try:
                guardian.wait(grace_seconds + GUARDIAN_SECONDS)
            except subprocess.TimeoutExpired:
                guardian.kill()
            if remove is not None:  # for the case that the guardian itself was killed
                shutil.rmtree(remove, ignore_errors=True)


def main(argument: str) -> None:
    """Be the guardian: `argument` is the order as JSON."""
    order = json.loads(argument)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    log = Path(order["log"])
    for command in order["commands"]:
        if not _run(command, log, order["grace_seconds"], order["owner"], woken):
            break
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), b"ended\n")
    while _orders(order["owner"]) is not None:
        pass
    if order["remove"]:
        shutil.rmtree(order["remove"], ignore_errors=True)


def _run(command: Sequence[str], log: Path, grace_seconds: float, owner: int, woken: int) -> bool:
    """Run one command to its end or the owner's; True when it ended with 0."""
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=_die_with_guardian(),  # noqa: PLW1509, the guardian has one thread
            )
        except OSError as error:
            output.write(f"ERROR {command[0]} does not start: {error}\n".encode())
            return False
    while child.poll() is None:
        orders = _orders(owner, woken)
        if orders is None:
            _stop(child, grace_seconds)
            return False
        for number in orders:
            child.send_signal(number)
    return child.returncode == 0


def _orders(owner: int, *wakers: int) -> bytes | None:
    """Wait for a sign of life or death, a second at most: the signals that the owner asks for; None when it has gone,
    for the pipe ended or the parent changed."""
    stdin = sys.stdin.fileno()
    readable, _, _ = select.select([stdin, *wakers], [], [], PARENT_CHECK_SECONDS)
    for waker in wakers:
        if waker in readable:
            os.read(waker, 512)
    if stdin in readable:
        return os.read(stdin, 512) or None
    return b"" if os.getppid() == owner else None


def _stop(child: subprocess.Popen[bytes], grace_seconds: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(grace_seconds)
    with contextlib.suppress(ProcessLookupError):  # whatever is left of the group
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _die_with_guardian() -> Callable[[], None] | None:
    """What a command does before it starts: on Linux, ask for SIGKILL when the guardian dies."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
