"""Running the command line as people do: as a process, with an environment and a directory of its own."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec

from streams.cli import main
from tests.helpers import eventually

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
#: Each command is a process of its own, forked from one that has done the imports: they take a second.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["streams.cli"])

ROOT = Path(__file__).parents[1]
SECONDS = 120


class Cli(msgspec.Struct, frozen=True):
    """The `distributary` command with a directory and settings (as `bootstrap="..."`)."""

    directory: Path
    settings: dict[str, str]

    def run(self, *arguments: str, stdin: str | bytes = b"", code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run to the end and hold it to its exit code; no output of any command ever holds a traceback."""
        files = [self.directory / f"run.{name}" for name in ("in", "out", "err")]
        files[0].write_bytes(stdin.encode() if isinstance(stdin, str) else stdin)
        process = _FORKS.Process(
            target=_be_the_command, args=(arguments, self.directory, self.env(), files), daemon=True
        )
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
        out, err = (file.read_text() for file in files[1:])
        result = subprocess.CompletedProcess(arguments, cast(int, process.exitcode), out, err)
        assert result.returncode == code, result
        assert "Traceback" not in result.stdout + result.stderr
        return result

    def fails(self, *arguments: str, stdin: str | bytes = b"") -> str:
        """The one line on stderr of a command that ends with 1, without its `error: `."""
        result = self.run(*arguments, stdin=stdin, code=1)
        *_, last = result.stderr.strip().splitlines()
        assert last.startswith("error: "), result
        return last.removeprefix("error: ")

    def misused(self, *arguments: str) -> str:
        """What is said about wrong usage, which ends with 2."""
        return " ".join(self.run(*arguments, code=2).stderr.replace("│", " ").split())

    def lines(self, *arguments: str, stdin: str | bytes = b"") -> list[Any]:
        """The JSON lines of stdout."""
        return [json.loads(line) for line in self.run(*arguments, stdin=stdin).stdout.splitlines()]

    @contextmanager
    def started(self, *arguments: str) -> Iterator[Started]:
        """A command that goes on; it is killed with the block."""
        out, err = (self.directory / f"{arguments[0]}.{name}" for name in ("out", "err"))
        with (
            out.open("wb") as stdout,
            err.open("wb") as stderr,
            subprocess.Popen(
                command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=self.directory,
                env=self.env(),
            ) as process,
        ):
            try:
                yield Started(process, out, err)
            finally:
                process.kill()

    def env(self) -> dict[str, str]:
        """This process's, without the settings of whoever runs the tests."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISTRIBUTARY_")}
        given = {f"DISTRIBUTARY_{name.upper()}": value for name, value in self.settings.items()}
        return kept | given | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "TERM": "dumb"}


class Started(msgspec.Struct, frozen=True):
    """A running command and the files that take its output."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def said(self, text: str, *, on: Path | None = None, timeout_s: float = 150.0) -> str:
        """All of the output (stdout, or the file `on`) once it holds `text`, with the rest of its line."""
        file = on or self.out

        def output() -> str:
            return file.read_text(errors="replace")  # half a character may be written

        def arrived() -> bool:
            ended = self.process.poll() is not None
            _, found, rest = output().partition(text)
            assert found or not ended, f"ended: {output()} {self.err.read_text()}"
            return bool(found) and ("\n" in rest or ended)

        eventually(arrived, timeout_s=timeout_s, message=f"{text!r} in {file.name}")
        return output()

    def ends(self, code: int, *, timeout_s: float = 150.0) -> None:
        """Wait for its end and hold it to the exit code."""
        assert self.process.wait(timeout_s) == code, self.err.read_text()


def _be_the_command(arguments: Sequence[str], directory: Path, env: dict[str, str], files: Sequence[Path]) -> None:
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(env)
    for descriptor, (file, flags) in enumerate(zip(files, (os.O_RDONLY, _WRITE, _WRITE), strict=True)):
        os.dup2(os.open(file, flags, 0o600), descriptor)
    sys.argv = ["distributary", *arguments]
    sys.stdin = io.TextIOWrapper(io.FileIO(0))  # multiprocessing has closed it
    main()


def command(*arguments: str) -> list[str]:
    """How it is called."""
    return [sys.executable, "-m", "streams.cli", *arguments]
