"""Log lines: both forms, what is struck out of them, and which go out."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from streams.cli.logs import JsonLines, TextLines, log_to_stderr, scrubbed

AT = 1_785_585_600.0425  # 2026-08-01T12:00:00.042Z


def record(message: str, *arguments: object, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("streams.app", logging.WARNING, "app.py", 1, message, arguments, None)
    made.created, made.msecs = AT, 42.5
    made.__dict__.update(more)
    return made


def test_text() -> None:
    assert TextLines().format(record("%s is %d", "it", 3)) == "2026-08-01T12:00:00.042Z WARNING streams.app: it is 3"
    line = TextLines().format(record("x", fields={"status": 500, "cause": "", "due_ms": 0, "tenant": "a"}))
    assert line.endswith(": x  status=500 tenant=a")


def test_json() -> None:
    line = JsonLines().format(record("two\nlines %s", "ü", fields={"status": 500, "message": "not this", "cause": ""}))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2026-08-01T12:00:00.042Z",
        "level": "WARNING",
        "logger": "streams.app",
        "message": "two\nlines ü",
        "status": 500,
        "cause": "",
    }


def test_a_traceback_stays_in_its_line() -> None:
    try:
        raise ValueError("with whsec_c2VjcmV0c2VjcmV0c2VjcmV0")
    except ValueError:
        failed = record("it failed", exc_info=sys.exc_info())
    said = json.loads(JsonLines().format(failed))["error"]
    assert said.startswith("Traceback")
    assert said.endswith("ValueError: with whsec_…")
    assert "c2VjcmV0" not in TextLines().format(failed)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("key whsec_AbC+/=== here", "key whsec_… here"),
        ("whsk_AAAA, dsk_k1_secret", "whsk_…, dsk_…"),
        ("authorization: Bearer abc.def-ghi", "authorization: Bearer …"),
        ("Basic dXNlcjpwYXNz", "Basic …"),
        ("POST https://a.example/x?token=1&b=2 failed", "POST https://a.example/x?… failed"),
        ('{"url":"https://a.example/?k=v"}', '{"url":"https://a.example/?…"}'),
        ("http://user:pass@registry:8081/ is away", "http://…@registry:8081/ is away"),
        ("Bearer of news, https://a.example/ok", "Bearer of news, https://a.example/ok"),
    ],
)
def test_what_is_formed_like_a_secret_is_struck_out(text: str, left: str) -> None:
    assert scrubbed(text) == left
    assert TextLines().format(record("%s", text)).endswith(f": {left}")
    fields = json.loads(JsonLines().format(record("%s", text, fields={"detail": text})))
    assert fields["message"] == fields["detail"] == left


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    root, attempts = logging.getLogger(), logging.getLogger("distributary.attempts")
    before = root.handlers[:], root.level, attempts.level
    yield
    root.handlers[:], root.level, attempts.level = before


@pytest.mark.usefixtures("_logging_as_before")
@pytest.mark.parametrize(
    ("form", "terminal", "is_json"),
    [("auto", False, True), ("auto", True, False), ("json", True, True), ("text", False, False)],
)
def test_which_form(monkeypatch: pytest.MonkeyPatch, form: Any, terminal: bool, is_json: bool) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(stderr, "isatty", lambda: terminal)
    log_to_stderr("WARNING", form)
    logging.getLogger("streams.x").info("not this")
    logging.getLogger("streams.x").warning("this")
    logging.getLogger("distributary.attempts").info("and this")
    lines = stderr.getvalue().splitlines()
    assert len(lines) == 2
    assert [line.startswith("{") for line in lines] == [is_json] * 2
