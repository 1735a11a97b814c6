"""Each fuzz target for a little while, what longer runs found, and that a run would notice a failure.

The long run is `make fuzz`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.fuzz import driver
from tests.fuzz.__main__ import main
from tests.fuzz.targets import TARGETS, Target

EXAMPLES = 200


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run(name: str) -> None:
    assert driver.run(TARGETS[name], EXAMPLES, 1) >= EXAMPLES // 4


def test_what_was_found() -> None:
    for file in sorted(driver.CASES.glob("*.txt")):
        name, value = driver.load(file)
        TARGETS[name].check(value)


def test_a_failure_is_made_small_kept_and_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(value: Any) -> None:
        assert len(value) < 3, "three"

    monkeypatch.setitem(TARGETS, "broken", Target(st.binary(), check))
    assert main(["broken", "--seed", "1", "--found", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "three" in shown.err
    (file,) = tmp_path.iterdir()
    assert f"python -m tests.fuzz {file}" in shown.out
    assert driver.load(file) == ("broken", bytes(3))
    with pytest.raises(AssertionError, match="three"):
        main([str(file)])
    assert driver.save(tmp_path, "broken", b"").name == "broken-2.txt"
    assert main([str(tmp_path / "broken-2.txt")]) == 0


def test_a_run_ends_when_its_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wire_format", "--minutes", "0.0001", "--seed", "1"]) == 0
    assert "0 targets failed" in capsys.readouterr().out
