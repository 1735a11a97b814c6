"""`distributary catalog` as people run it; it needs no Kafka."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.cli import ROOT, Cli


def cli(tmp_path: Path) -> Cli:
    folder = tmp_path / "schemas"
    folder.mkdir()
    for version in (1, 2):
        shutil.copy(ROOT / f"schemas/examples/order.v{version}.avsc", folder / f"shop.Order.v{version}.avsc")
    return Cli(tmp_path, {"schemas": str(folder), "prefix": "p."})


def test_both_files_are_written_and_written_again(tmp_path: Path) -> None:
    command = cli(tmp_path)
    said = command.run("catalog", "--out", "site/events").stdout
    document = json.loads((tmp_path / "site/events/asyncapi.json").read_text())
    assert document["asyncapi"] == "3.0.0"
    assert document["channels"]["events"]["address"] == "p.events"
    messages = document["channels"]["webhooks"]["messages"]
    assert {"shop.Order.v1.webhook", "shop.Order.v2.webhook", "distributary.Event.v2.webhook"} <= messages.keys()
    assert said.startswith(f"site/events/asyncapi.json: {len(messages)} schemas\n")
    before = {path.name: path.read_bytes() for path in (tmp_path / "site/events").iterdir()}
    written, _ = command.lines("catalog", "--out", "site/events", "--json")
    assert written == {"file": "site/events/asyncapi.json", "schemas": len(messages)}
    assert {path.name: path.read_bytes() for path in (tmp_path / "site/events").iterdir()} == before
    command.run("catalog", "--out", "site/events", "--title", "Shop", "--version", "2.1.0")
    assert "<title>Shop</title>" in (tmp_path / "site/events/index.html").read_text()
    assert "operation.circuit.opened" not in (tmp_path / "site/events/index.html").read_text()
    command.run("catalog", "--out", "site/all", "--operations")
    document = json.loads((tmp_path / "site/all/asyncapi.json").read_text())
    schemas = {each["name"]: each["schema"] for each in document["x-event-types"]}
    assert schemas["operation.circuit.opened"] == "distributary.Operation"
    assert "distributary.Operation.v2.webhook" in document["channels"]["webhooks"]["messages"]


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    command = cli(tmp_path)
    (tmp_path / "file").write_text("")
    assert "the system refuses" in command.fails("catalog", "--out", "file")
    away = Cli(tmp_path, {"registry_url": "http://127.0.0.1:1"})
    assert "does not answer" in away.fails("catalog", "--out", "site")
    (tmp_path / "schemas/bad.v1.avsc").write_text("{")
    assert "not a valid Avro schema" in command.fails("catalog", "--out", "site")
