"""Imports go one way: import-linter on the tree, and on small trees that break each contract once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"
MODULES = (
    "connectors/__init__.py",
    "schemas/__init__.py",
    "streams/__init__.py",
    "streams/agents.py",
    "streams/api_app.py",
    "streams/app.py",
    "streams/attempt_log.py",
    "streams/cli/__init__.py",
    "streams/control.py",
    "streams/core/__init__.py",
    "streams/dispatch.py",
    "streams/dispatch_health.py",
    "streams/dispatch_order.py",
    "streams/dispatch_state.py",
    "streams/dispatch_turns.py",
    "streams/fan_out.py",
    "streams/helper.py",
    "streams/kafka_security.py",
    "streams/lanes.py",
    "streams/lookup.py",
    "streams/meter.py",
    "streams/observed.py",
    "streams/operation_events.py",
    "streams/parking.py",
    "streams/planning.py",
    "streams/ports.py",
    "streams/quarantine.py",
    "streams/quarantine_check.py",
    "streams/quarantine_log.py",
    "streams/quarantine_marks.py",
    "streams/quarantine_page.py",
    "streams/quarantine_resend.py",
    "streams/quarantine_service.py",
    "streams/records.py",
    "streams/replay.py",
    "streams/replay_role.py",
    "streams/replay_sources.py",
    "streams/requests.py",
    "streams/secret_keys.py",
    "streams/dead_judge.py",
    "streams/source_wiring.py",
    "streams/settle.py",
    "streams/subscription_check.py",
    "streams/tally.py",
    "streams/tokens.py",
    "streams/tracing.py",
    "streams/transport.py",
    "streams/values.py",
    "streams/verification.py",
    "streams/verifier.py",
    "streams/versions.py",
    "streams/wiring.py",
    "streams/worker_metrics.py",
)


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LINT, "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_the_tree_keeps_its_contracts() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("contract", "imports"),
    [
        ("imports go one way", {"streams/core/__init__.py": "import streams.ports"}),
        ("imports go one way", {"schemas/__init__.py": "import streams.core"}),
        ("imports go one way", {"streams/settle.py": "from streams import fan_out"}),
        ("imports go one way", {"streams/agents.py": "import streams.app"}),
        ("connectors know schemas only", {"connectors/__init__.py": "import streams.ports"}),
        ("only the composition root knows connectors", {"streams/settle.py": "import connectors"}),
        (
            "only the composition root knows connectors",
            {"streams/agents.py": "import streams.helper", "streams/helper.py": "import connectors"},
        ),
        ("schemas and core are pure", {"schemas/__init__.py": "import time"}),
        ("schemas and core are pure", {"streams/core/__init__.py": "from confluent_kafka import Producer"}),
    ],
)
def test_each_contract_refuses_what_it_is_for(tmp_path: Path, contract: str, imports: dict[str, str]) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module in MODULES:
        file = tmp_path / module
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(imports.get(module, ""))
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert f"{contract} BROKEN" in result.stdout
