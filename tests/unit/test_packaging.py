"""What is shipped beside the code says what the code expects: image, compose file, targets of make.

No Docker engine is asked: the files are read, not built.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from connectors import local_kafka

ROOT = Path(__file__).parents[2]
OURS = ("topics", "fan-out", "delivery", "replay")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services: dict[str, Any] = compose["services"]
    return services


def test_compose_starts_each_service_after_what_it_needs(services: dict[str, Any]) -> None:
    conditions = {
        (name, needed): each["condition"]
        for name, service in services.items()
        for needed, each in service.get("depends_on", {}).items()
    }
    assert conditions == {
        ("registry", "kafka"): "service_healthy",
        ("topics", "kafka"): "service_healthy",
        ("topics", "registry"): "service_healthy",
        ("fan-out", "topics"): "service_completed_successfully",
        ("delivery", "topics"): "service_completed_successfully",
        ("replay", "topics"): "service_completed_successfully",
        ("api", "topics"): "service_completed_successfully",
    }
    for (_, needed), condition in conditions.items():
        assert condition != "service_healthy" or "healthcheck" in services[needed]
        assert condition != "service_completed_successfully" or services[needed]["restart"] == "no"


def test_compose_runs_the_roles_against_its_own_kafka_and_registry(services: dict[str, Any]) -> None:
    kafka, registry = services["kafka"], services["registry"]
    assert kafka["image"] == f"apache/kafka:{local_kafka.VERSION}"
    for name in OURS:
        bootstrap = services[name]["environment"]["DISTRIBUTARY_BOOTSTRAP"]
        assert f"INTERNAL://{bootstrap}" in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
        assert services[name]["environment"]["DISTRIBUTARY_REGISTRY_URL"] == "http://registry:8081"
    assert registry["environment"]["SCHEMA_REGISTRY_KAFKASTORE_BOOTSTRAP_SERVERS"] == f"PLAINTEXT://{bootstrap}"


def test_compose_opens_no_port_beyond_this_machine(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_image_is_hashed_and_runs_without_rights() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    last_stage = dockerfile.split("\nFROM ")[-1]
    assert "--require-hashes -r constraints-runtime.txt" in dockerfile
    assert re.search(r"^USER (?!root|0)\w+$", last_stage, re.MULTILINE)
    assert last_stage.rstrip().endswith('ENTRYPOINT ["distributary"]')


def test_what_the_image_copies_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == {
        "LICENSE",
        "connectors",
        "constraints-runtime.txt",
        "pyproject.toml",
        "schemas",
        "streams",
    }
    assert all((ROOT / name).exists() for name in kept)


def run_make(folder: Path, *arguments: str, path: str = os.defpath) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("constraints.txt", "pyproject.toml"):
        (folder / name).touch()
    make = shutil.which("make")
    assert make is not None
    return subprocess.run(
        [make, *arguments], cwd=folder, capture_output=True, text=True, env={"PATH": path}, check=False
    )


def test_make_lists_its_targets(tmp_path: Path) -> None:
    listed = run_make(tmp_path).stdout.splitlines()
    assert {line.split()[1] for line in listed} >= {"demo", "test", "check", "bench", "lock", "clean"}


def interpreter(folder: Path, code: str) -> Path:
    """A python that runs `code` before what it is told to."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nshift\nexec "{sys.executable}" -c "{code}\n$1"\n')
    python.chmod(0o755)
    return python


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import sys; sys.version_info = (3, 10)", "is not Python 3.11 or later"),
        ("import sys; sys.modules['ensurepip'] = None", "cannot make virtual environments"),
    ],
)
def test_make_says_what_is_wrong_with_an_interpreter(tmp_path: Path, code: str, sentence: str) -> None:
    result = run_make(tmp_path, "test", f"PYTHON={interpreter(tmp_path, code)}")
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_says_when_there_is_no_interpreter(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sh").symlink_to("/bin/sh")
    result = run_make(tmp_path, "test", path=str(tools))
    assert result.returncode == 2
    assert "No Python 3.11 or later found" in result.stderr
