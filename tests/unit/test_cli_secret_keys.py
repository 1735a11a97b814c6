"""Keys that the command line makes are keys that the settings take."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from schemas.sealing import keyring_from_lines, keyring_from_texts
from streams.cli.root import app


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["secret-keys", "new", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_a_new_key_is_a_line_of_the_file_and_no_two_are_alike() -> None:
    one, two = run("--id", "k1"), run("--id", "k1")
    assert keyring_from_lines(one).primary == "k1"
    assert one != two
    assert keyring_from_lines(run()).primary.startswith("k20")


def test_as_json_it_is_the_setting() -> None:
    assert keyring_from_texts(json.loads(run("--id", "k1", "--json"))).primary == "k1"


def test_an_id_that_cannot_be_one_is_wrong_usage() -> None:
    assert "not 1 to 64 characters" in run("--id", "a b", code=2)
