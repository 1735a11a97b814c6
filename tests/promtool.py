"""promtool, and the alert rules that it judges.

It is the machine's, or that of Debian's prometheus package, fetched once. Where neither can be had, what needs it is
skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs import ROOT

DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RULES = PROMETHEUS / "alerts.yml"
FETCH_SECONDS = 30


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool") or _fetched()
    if found is None:
        pytest.skip("there is no promtool here, and Debian's prometheus package cannot be fetched")
    return found


def _fetched() -> str | None:
    """Debian's, unpacked without installing it, and kept for the next run."""
    kept = Path.home() / ".cache" / "distributary" / "promtool"
    if kept.exists():
        return str(kept)
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as directory:
        for command in (
            ["apt-get", "download", "prometheus"],
            ["apt-get", "update"],
            ["apt-get", "download", "prometheus"],
        ):
            try:
                subprocess.run(command, cwd=directory, capture_output=True, check=False, timeout=FETCH_SECONDS)
            except subprocess.TimeoutExpired:
                return None
            if packages := list(Path(directory).glob("prometheus_*.deb")):
                subprocess.run(["dpkg-deb", "-x", packages[0], directory], capture_output=True, check=True)
                (Path(directory) / "usr/bin/promtool").rename(kept)
                return str(kept)
    return None


def run(promtool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
