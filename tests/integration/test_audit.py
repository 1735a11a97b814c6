"""The audit audited: a quick one accounts for everything, and whatever happens to it, nothing of it stays behind."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections import Counter
from pathlib import Path

import psutil
import pytest

from streams.cli.audit import QUICK
from streams.cli.audit_plan import COUNTS, Plan
from tests.cli import Cli, Started
from tests.helpers import eventually

SECONDS = 580
#: Its ten faults are every kind of those of workers, and some of endpoints.
SEED = 24
FIELDS = [
    *("expected", "delivered", "dead", "pending", "lost", "duplicates", "duplicate_rate", "faults", "p50_ms", "p99_ms"),
    *("doubled", "out_of_order", "unexpected", "unexplained", "attempts", "posts", "seed", "kinds", "broker"),
]


def family(audit: Started) -> list[psutil.Process]:
    return psutil.Process(audit.process.pid).children(recursive=True)


def whole(audit: Started) -> list[psutil.Process]:
    """Its processes when all of them run; none otherwise."""
    processes = family(audit)
    commands = Counter(word for each in processes for word in words(each))
    wanted = {"connectors.faulty_receiver": 1, "connectors.cutter": 1, "worker": 2, "kafka.Kafka": 1}
    return processes if all(commands[name] == count for name, count in wanted.items()) else []


def gone(processes: list[psutil.Process]) -> bool:
    return not any(runs(each) for each in processes)


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def folder(audit: Started) -> Path:
    found = re.search(r"logs in (\S+)", audit.err.read_text())
    assert found is not None
    return Path(found[1])


@pytest.mark.timeout(SECONDS + 20)
def test_a_quick_one(tmp_path: Path) -> None:
    plan = Plan(SEED, QUICK.deliveries)
    with Cli(tmp_path, {"guarantee": "at_least_once"}).started("audit", "--quick", "--seed", str(SEED)) as audit:
        audit.ends(0, timeout_s=SECONDS)
        said = audit.err.read_text()
        (line,) = audit.out.read_text().splitlines()
        assert not folder(audit).exists()
    result = json.loads(line)
    assert list(result) == FIELDS
    assert result["expected"] == plan.deliveries
    dying = {each.number for each in plan.targets if each.ends == "dead"}
    assert result["dead"] == sum(target in dying for _, target in plan)
    assert result["delivered"] == plan.deliveries - result["dead"]
    for name in ("pending", "lost", "doubled", "out_of_order", "unexpected", "unexplained"):
        assert result[name] == 0, name
    assert result["faults"] == QUICK.faults == sum(result["kinds"].values())
    assert result["posts"] >= result["delivered"]
    assert result["seed"] == SEED
    table = {words[0]: words[1] for row in said.splitlines() if len(words := row.split()) > 1}
    assert {kind: table[kind] for kind in COUNTS} == {kind: str(count) for kind, count in COUNTS.items()}
    assert {kind: table[kind] for kind in result["kinds"]} == {kind: str(n) for kind, n in result["kinds"].items()}


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("how", ["interrupted", "killed", "receiver gone"])
def test_whatever_ends_it_nothing_stays_but_the_folder(tmp_path: Path, how: str) -> None:
    with Cli(tmp_path, {}).started("audit", "--quick", "--faults", "12", "--seed", "4") as audit:
        audit.said("2 workers ready", on=audit.err, timeout_s=120)
        processes = eventually(lambda: whole(audit), message="all processes run")  # a fault may have ended one
        if how == "interrupted":
            audit.process.send_signal(signal.SIGINT)
            audit.ends(130, timeout_s=120)
        elif how == "killed":
            audit.process.kill()
            audit.ends(-signal.SIGKILL)
        else:
            next(each for each in processes if "connectors.faulty_receiver" in words(each)).kill()
            audit.ends(1, timeout_s=120)
        eventually(lambda: gone(processes), timeout_s=120, message="every process has gone")
        said = audit.err.read_text()
        assert (folder(audit) / "w1.1.log").exists()
        if how != "killed":
            again = "--seed 4 --deliveries 5000 --minutes 0.3 --faults 12 --workers 2 --brokers 1"
            assert f"everything is kept in {folder(audit)}; the same once more: distributary audit {again}" in said
        if how == "receiver gone":
            assert re.match(r"error: the helper on port \d+ has gone$", said.splitlines()[-1])
        assert "Traceback" not in said
        shutil.rmtree(folder(audit))


def test_options_have_bounds(tmp_path: Path) -> None:
    cli = Cli(tmp_path, {})
    assert "--brokers" in cli.misused("audit", "--brokers", "0")
    assert "--deliveries" in cli.misused("audit", "--deliveries", "1")
