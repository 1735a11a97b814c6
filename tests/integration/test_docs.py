"""Every command of README.md and docs/ is run as it stands there, in order, on a real Kafka.

A document is a session: its fences share a directory, the exported variables and a shell's working directory. The
fence's info string says what a fence is:

    sh, console           run; in `console`, lines after `$ ` are commands and the others the output to expect, where
                          `…` stands for any text and a line of nothing else for any lines
    sh until:WORD         goes on from here on; what follows waits until it has said WORD
    console ctrl-c        `^C` for the last one that still goes on, and the output to expect from it since its start
    text shown            lines that one of those that go on says, now or soon
    LANGUAGE FILE         the text of a file of that name, written before what follows
    sh not-run            cannot run here (tests/unit/test_docs.py says what may be that)

Addresses of the documents are replaced by those of the test: Kafka's, the schema registry's, the receiver's port.
Topics exist already unless the document creates them.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from connectors.admin import apply_topics
from connectors.clock import SystemClock
from connectors.local_kafka import Cluster, steady_ports
from connectors.registry_folder import FolderRegistry
from connectors.registry_rest import registry_app
from schemas.topics import Topics
from tests.docs import ROOT, Fence, documents, fences
from tests.helpers import eventually

COMMAND_SECONDS = 120
SOON_SECONDS = 60


class Session:
    """One document being followed."""

    def __init__(self, directory: Path, environment: Mapping[str, str], replaced: Mapping[str, str]) -> None:
        self._directory = directory
        self._replaced = replaced
        self._hidden = environment["DISTRIBUTARY_PREFIX"]
        self._state = directory / ".state"
        self._going_on: list[tuple[subprocess.Popen[bytes], Path]] = []
        exports = "".join(f"export {name}={value!r}\n" for name, value in environment.items())
        self._state.write_text(f"{exports}cd {str(directory)!r}\n")

    def follow(self, fence: Fence) -> None:
        text = fence.text
        for ours, theirs in self._replaced.items():
            text = text.replace(ours, theirs)
        match fence.info.split():
            case ["sh"]:
                self._run(text)
            case ["console"]:
                for command, expected in examples(text):
                    self._agrees(self._run(command, may_fail="error: " in expected), expected)
            case ["sh", until] if until.startswith("until:"):
                self._start(text, until.removeprefix("until:"))
            case ["console", "ctrl-c"]:
                self._interrupt(text.removeprefix("^C\n"))
            case ["text", "shown"]:
                self._wait_for(text)
            case [_, name] if name != "not-run":
                (self._directory / name).write_text(text)

    def end(self) -> None:
        for process, _ in self._going_on:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _run(self, command: str, *, may_fail: bool = False) -> str:
        script = (
            f"{self._prologue()}trap 'export -p > {self._state}; echo cd \"$PWD\" >> {self._state}' EXIT\n{command}"
        )
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
            env={},
        )
        assert done.returncode == 0 or (may_fail and done.returncode == 1), f"{command}\n{done.stdout}"
        return done.stdout.replace(self._hidden, "")

    def _start(self, command: str, word: str) -> None:
        log = self._directory / f".log{len(self._going_on)}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", f"{self._prologue()}exec {command.strip()}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={},
                start_new_session=True,
            )
        self._going_on.append((process, log))

        def said() -> bool:
            return word in log.read_text(errors="replace") or process.poll() is not None

        eventually(said, timeout_s=COMMAND_SECONDS, message=command)
        assert process.poll() is None, f"{command}\n{log.read_text()}"

    def _interrupt(self, expected: str) -> None:
        process, log = next(pair for pair in reversed(self._going_on) if pair[0].poll() is None)
        process.send_signal(signal.SIGINT)
        assert process.wait(SOON_SECONDS) in (0, 130), log.read_text()
        self._agrees(log.read_text().replace(self._hidden, ""), f"…\n{expected}…" if expected else "…")

    def _said(self) -> Iterator[str]:
        for _, log in self._going_on:
            yield log.read_text(errors="replace").replace(self._hidden, "")

    def _wait_for(self, text: str) -> None:
        try:
            eventually(lambda: any(agrees(said, f"…\n{text}…") for said in self._said()), timeout_s=SOON_SECONDS)
        except AssertionError:
            pytest.fail(f"nobody said\n{text}\nbut\n" + "\n---\n".join(self._said()))

    def _prologue(self) -> str:
        return f". {self._state}\n"

    def _agrees(self, output: str, expected: str) -> None:
        assert agrees(output, expected), f"the document says\n{expected}\nand the command\n{output}"


def examples(text: str) -> list[tuple[str, str]]:
    """(command, expected output) of a console fence; a command goes on in lines after `> `."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            command, expected = found[-1]
            found[-1] = (command + line[2:], "") if line.startswith("> ") else (command, expected + line)
    return found


def agrees(output: str, expected: str) -> bool:
    """Whether the output is as expected; nothing expected is nothing said about it."""
    if not expected:
        return True
    lines = [r"(?:.*\n)*?" if line == "…" else _line(line) for line in expected.splitlines()]
    return re.fullmatch("".join(lines), output) is not None


def _line(line: str) -> str:
    return ".*?".join(re.escape(part) for part in line.split("…")) + r"\s*\n"


@contextmanager
def registry_server(folder: Path) -> Iterator[str]:
    """A Confluent-compatible registry; its URL. On a thread of its own: the session blocks this one."""
    (port,) = steady_ports(1)
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(registry_app(FolderRegistry(folder, monotonic=SystemClock().monotonic)))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


@pytest.fixture
def session(tmp_path: Path, kafka: Cluster, prefix: str) -> Iterator[Callable[[Sequence[Fence]], Session]]:
    with ExitStack() as stack:

        def opened(fences: Sequence[Fence]) -> Session:
            text = "\n".join(fence.text for fence in fences)  # what is told in a sentence is not done
            if "topics apply" not in text and "distributary dev" not in text:
                config = {"bootstrap.servers": kafka.bootstrap}
                asyncio.run(apply_topics(config, Topics(prefix, 2).specs(), -1))
            replaced = {
                "127.0.0.1:38447": kafka.bootstrap,  # what `distributary dev` is said to print
                "localhost:9092": kafka.bootstrap,
                'TOPIC = "events"': f'TOPIC = "{prefix}events"',
                'PREFIX = ""': f'PREFIX = "{prefix}"',
            }
            receiver, registry, api = steady_ports(3)
            replaced |= {"127.0.0.1:8000": f"127.0.0.1:{receiver}", "port=8000": f"port={receiver}"}
            replaced |= {"127.0.0.1:8080": f"127.0.0.1:{api}", "--port 8080": f"--port {api}"}
            if "registry-port 8081" in text or "distributary registry" in text:
                replaced["8081"] = str(registry)
            elif "http://localhost:8081" in text:
                folder = tmp_path / "registry"
                folder.mkdir()
                replaced["http://localhost:8081"] = stack.enter_context(registry_server(folder))
            directory = tmp_path / "session"
            directory.mkdir()
            (directory / ".venv").symlink_to(sys.prefix)
            (directory / "schemas").symlink_to(ROOT / "schemas")
            made = Session(directory, environment(kafka.bootstrap, prefix), replaced)
            stack.callback(made.end)
            return made

        yield opened


def environment(bootstrap: str, prefix: str) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", ""),
        "DISTRIBUTARY_BOOTSTRAP": bootstrap,
        "DISTRIBUTARY_PREFIX": prefix,
        "DISTRIBUTARY_PARTITIONS": "2",
        "DISTRIBUTARY_REGISTRY_TOPIC": f"{prefix}schemas",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "400",
        "TERM": "dumb",
    }


RUN = [document for document in documents() if any(fence.runs for fence in fences(document))]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("document", RUN, ids=[str(document.relative_to(ROOT)) for document in RUN])
def test_a_document_can_be_followed(document: Path, session: Callable[[Sequence[Fence]], Session]) -> None:
    steps = fences(document)
    following = session(steps)
    for step in steps:
        following.follow(step)


def test_what_may_be_written_into_a_document_is_told_apart(tmp_path: Path) -> None:
    assert examples("$ a \\\n> b\nout\n$ c\n") == [("a \\\nb\n", "out\n"), ("c\n", "")]
    assert agrees("sent e-1 at 12:00\nmore\n", "sent … at …\nmore\n")
    assert agrees("one\ntwo\nthree\n", "one\n…\nthree\n")
    assert not agrees("one\ntwo\n", "one\n")
    assert not agrees("one\n", "one\ntwo\n")
    document = tmp_path / "a.md"
    document.write_text("```sh\nls\n```\ntext\n```python a.py\nx = 1\n```\n")
    assert [msgspec.structs.astuple(fence) for fence in fences(document)] == [
        ("sh", "ls\n", 1),
        ("python a.py", "x = 1\n", 5),
    ]


def test_a_command_that_fails_or_says_something_else_is_noticed(session: Callable[[Sequence[Fence]], Session]) -> None:
    following = session([])
    following.follow(Fence("sh", "export WORD=kept\nmkdir -p sub && cd sub\n", 1))
    following.follow(Fence("console", '$ echo "$WORD in $(basename "$PWD")"\nkept in sub\n', 1))
    with pytest.raises(AssertionError):
        following.follow(Fence("sh", "false | true\n", 1))
    with pytest.raises(AssertionError, match="the document says"):
        following.follow(Fence("console", "$ echo one\ntwo\n", 1))
