"""Settings that are wrong: one sentence names what, where it comes from, and what may have been meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streams.cli.options import load_settings
from streams.cli.running import CommandError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory and an environment in which nothing is set."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DISTRIBUTARY_")]:
        monkeypatch.delenv(name)
    return tmp_path


def refused() -> str:
    with pytest.raises(CommandError) as refusal:
        load_settings()
    return str(refusal.value)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "DISTRIBUTARY_BOOTSTRP",
            "x:9092",
            "no setting DISTRIBUTARY_BOOTSTRP (did you mean DISTRIBUTARY_BOOTSTRAP?); correct or unset it",
        ),
        ("DISTRIBUTARY_FORBIDDEN", "10.0.0.0/8", "there is no setting DISTRIBUTARY_FORBIDDEN; correct or unset it"),
        ("DISTRIBUTARY_KAFKA", '{"a', "the setting kafka is not JSON (Unterminated string"),
        ("DISTRIBUTARY_TENANT_WEIGHTS", '{"acme": 0}', "the setting tenant_weights.acme is wrong: "),
        ("DISTRIBUTARY_TENANT_WEIGHTS", '{"acme": 0}', "correct its option, DISTRIBUTARY_TENANT_WEIGHTS or "),
        ("DISTRIBUTARY_PROXY", "proxy:3128", "the setting proxy is wrong: "),
        ("DISTRIBUTARY_PROXY", "proxy:3128", "as http://proxy:3128"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    monkeypatch.setenv(variable, value)
    assert said in refused()


def test_variables_that_others_set_or_read_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR"):
        monkeypatch.setenv(f"DISTRIBUTARY_HOOKS_{name}", "x")
    for name in ("DEBUG", "API_URL", "API_KEY"):
        monkeypatch.setenv(f"DISTRIBUTARY_{name}", "x")
    assert load_settings(bootstrap="kafka:9092").bootstrap == "kafka:9092"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            b'bootstrp = "x:9092"\n',
            "distributary.toml has a setting bootstrp, which there is not (did you mean bootstrap?)",
        ),
        (b"bootstrap = \n", "distributary.toml is not TOML: "),
        (b"\xff\xfe", "distributary.toml is not UTF-8 text"),
    ],
)
def test_a_wrong_file_is_named(elsewhere: Path, text: bytes, said: str) -> None:
    (elsewhere / "distributary.toml").write_bytes(text)
    assert said in refused()


def test_a_file_that_is_a_folder_or_leads_nowhere_is_not_passed_over(elsewhere: Path) -> None:
    file = elsewhere / "distributary.toml"
    file.mkdir()
    assert "no file that can be read" in refused()
    file.rmdir()
    file.symlink_to("nowhere")
    assert "no file that can be read" in refused()
    file.unlink()
    file.write_text('prefix = "webhooks."\n')
    assert load_settings().prefix == "webhooks."
