"""The documents, as their tests read them: README.md, ARCHITECTURE.md and everything in docs/."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^```(\S[^\n]*)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Fence(msgspec.Struct, frozen=True):
    """A fenced block: its info string, its text, and the line that it begins on."""

    info: str
    text: str
    line: int

    @property
    def runs(self) -> bool:
        """Whether it holds commands that are run."""
        return self.info.split()[:1] in (["sh"], ["console"]) and self.info != "sh not-run"


def documents() -> list[Path]:
    """All of them, in order."""
    return [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fences(document: Path) -> list[Fence]:
    """The fences of a document, in order."""
    text = document.read_text()
    return [Fence(match[1] or "", match[2], text.count("\n", 0, match.start()) + 1) for match in _FENCE.finditer(text)]


def tables(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head. AssertionError when there is none."""
    section = re.split(rf"^#+ {re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)
    assert len(section) == 2, f"no heading {heading!r}"
    rows: list[list[str]] = []
    for line in section[1].splitlines():
        if line.startswith("|"):
            rows.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            break
    assert len(rows) > 2, f"no table under {heading!r}"
    return rows[2:]
