"""How log lines look: text for people, or one JSON object a line for programs, on stderr.

Whatever is logged, what is formed like a secret is struck out of it here: by the forms of our own secrets and keys, of
`Authorization` values, and of the queries of URLs. This file logs nothing itself.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Literal

import orjson

from schemas.redaction import HIDDEN

Format = Literal["auto", "json", "text"]

_SECRETS = re.compile(
    r"""(?x)
    \b(?P<kind>whsec_|whsk_|dsk_)[A-Za-z0-9+/=_-]+     # signing secrets, private keys, API keys
    | \b(?P<scheme>Bearer\ |Basic\ )[A-Za-z0-9+/=._~-]{8,}
    | (?P<url>https?://[^\s"'<>?]*\?)[^\s"'<>]+        # a query may hold a key
    | (?P<user>https?://)[^\s"'<>/@]+(?=@)             # and so does what stands before an @
    """
)
_TEXT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
_TIME = "%Y-%m-%dT%H:%M:%S"


def scrubbed(text: str) -> str:
    """The text without what is formed like a secret."""
    return _SECRETS.sub(lambda match: f"{match[match.lastgroup or 0]}{HIDDEN}", text)


class TextLines(logging.Formatter):
    """Time in UTC, level, where, what, and then the fields, as name=value."""

    def __init__(self) -> None:
        super().__init__(_TEXT, _TIME)
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback's where there is one."""
        line = super().format(record)
        fields = getattr(record, "fields", None)
        if fields:
            line += "  " + " ".join(f"{name}={value}" for name, value in fields.items() if value not in ("", 0))
        return scrubbed(line)


class JsonLines(logging.Formatter):
    """`time` (RFC 3339), `level`, `logger`, `message`, `error` for a traceback, and the fields beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        document = {
            "time": f"{self.formatTime(record, _TIME)}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": scrubbed(record.getMessage()),
        }
        if record.exc_info:
            document["error"] = scrubbed(self.formatException(record.exc_info))
        for name, value in getattr(record, "fields", {}).items():
            document.setdefault(name, scrubbed(value) if isinstance(value, str) else value)
        return orjson.dumps(document, default=str).decode()


def log_to_stderr(level: str, form: Format = "text") -> None:
    """Log lines of a process that goes on, from this level on; those of attempts at every level."""
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else TextLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("distributary.attempts").setLevel(logging.INFO)  # who asked for them gets them
    for library in ("faust", "mode", "httpx2"):  # which say at INFO what each of their parts and requests does
        logging.getLogger(library).setLevel("DEBUG" if level == "DEBUG" else "WARNING")
