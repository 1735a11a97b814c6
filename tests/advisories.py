"""Known vulnerabilities of what is pinned, from the OSV database: `python -m tests.advisories`, a part of `make check`.

Where the database cannot be reached, that is said, and nothing fails: a check of the code needs no network. What is
known and does not concern us stands in `IGNORED`, with the reason.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

URL = "https://api.osv.dev/v1/querybatch"
SECONDS = 5.0
#: Advisory ids, and why each does not concern us.
IGNORED: Mapping[str, str] = {}


class UnreachableError(Exception):
    """Nobody was asked."""


def pinned(constraints: str) -> dict[str, str]:
    """Versions by name, of a file of constraints with hashes."""
    return dict(re.findall(r"^([a-z0-9.-]+)==([^\s;\\]+)", constraints, re.MULTILINE))


def look_up(pins: Mapping[str, str], url: str = URL, *, ignored: Mapping[str, str] = IGNORED) -> list[str]:
    """A sentence for each advisory that is not ignored. UnreachableError when there is no answer as it should be."""
    queries = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": pins[name]} for name in pins]
    body = json.dumps({"queries": queries}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            results = list(json.load(response)["results"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreachableError(f"{type(error).__name__}: {error}") from None
    if len(results) != len(queries):
        raise UnreachableError(f"{len(results)} answers to {len(queries)} questions")
    return [
        f"{name} {version}: {advisory['id']}; upgrade it, or say in tests/advisories.py why it does not concern us"
        for (name, version), result in zip(pins.items(), results, strict=True)
        for advisory in (result or {}).get("vulns", [])
        if advisory["id"] not in ignored
    ]


def main(url: str = URL) -> int:
    """1 when there is an advisory."""
    pins = pinned((Path(__file__).parents[1] / "constraints.txt").read_text())
    try:
        found = look_up(pins, url)
    except UnreachableError as error:
        print(f"advisories: not looked up, the database cannot be reached ({error})")
        return 0
    for line in found:
        print(f"advisories: {line}")
    print(f"advisories: {len(found)} for {len(pins)} packages")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
