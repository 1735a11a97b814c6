"""What the documents say about names, numbers, paths and links is what the code says."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import typer.main
import yaml

from connectors.api.table import ROUTES
from schemas import codec
from schemas.delivery import OUTCOMES
from schemas.post import CAUSES
from schemas.subscription import Subscription
from schemas.subscription_codec import REASONS
from schemas.topics import HOLDS_MS, Topics
from streams.cli.root import app
from streams.core.retry import HOLD_MS_MIN, slack_ms, tier_hold_ms
from streams.settings import Settings
from tests.docs import ROOT, documents, fences, tables

DOCUMENTS = documents()
IDS = [str(document.relative_to(ROOT)) for document in DOCUMENTS]
REFERENCE = ROOT / "docs/reference"
LANGUAGES = {"sh", "console", "text", "json", "toml", "yaml", "python", "js", "go"}
#: Variables that are options of commands, and no settings.
OF_COMMANDS = {"DISTRIBUTARY_DEBUG", "DISTRIBUTARY_API_URL", "DISTRIBUTARY_API_KEY"}
#: What cannot run in the tests: it sets up, runs the tests themselves, or needs Docker.
NOT_RUN = re.compile(r"(make|docker compose)( |$)")


def prose(document: Path) -> str:
    """The text without its fences."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def bare(cell: str) -> str:
    return cell.strip("`")


# --- links, paths, fences ---------------------------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_files_that_are_named_exist(document: Path) -> None:
    roots = r"(?:schemas|streams|connectors|tests|bench|docs)"
    for name in re.findall(rf"`({roots}/[\w./*-]*)`", prose(document)):
        assert list(ROOT.glob(name)), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_every_fence_is_of_a_known_kind(document: Path) -> None:
    for fence in fences(document):
        place = f"{document.name}:{fence.line}"
        language, *rest = fence.info.split() or [""]
        assert language in LANGUAGES, place
        if rest == ["not-run"]:
            assert language == "sh", place
            assert all(NOT_RUN.match(line) for line in fence.text.splitlines()), place
        if language in ("python", "js", "go"):  # programs are run, and for that they are files
            assert rest, place


def test_targets_of_make_and_services_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    texts = [document.read_text() for document in DOCUMENTS]
    named = {target for text in texts for target in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)}
    assert {"demo", "test", "bench"} <= named <= targets
    assert any("docker compose up" in text for text in texts)
    assert {"kafka", "registry", "fan-out", "delivery"} <= services.keys()


def test_settings_files_in_the_documents_are_accepted() -> None:
    files = [fence.text for document in DOCUMENTS for fence in fences(document) if fence.info == "toml"]
    assert files
    for text in files:
        made = Settings(**tomllib.loads(text))
        assert made.kafka or made.kafka_username


def test_names_of_settings_in_the_documents_exist() -> None:
    known = {f"DISTRIBUTARY_{name.upper()}" for name in Settings.model_fields} | OF_COMMANDS
    for document in DOCUMENTS:
        assert set(re.findall(r"DISTRIBUTARY_[A-Z_]*[A-Z]", document.read_text())) <= known, document


# --- reference --------------------------------------------------------------------------------------------------------


def test_settings() -> None:
    said = {bare(name): bare(default) for name, default, _ in tables((REFERENCE / "settings.md").read_text(), "All")}
    fields = {}
    for name, field in Settings.model_fields.items():
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        fields[f"DISTRIBUTARY_{name.upper()}"] = "" if default in (None, "") else orjson.dumps(default).decode()
    assert said == {name: default.strip('"') for name, default in fields.items()}


def test_routes_of_the_http_api() -> None:
    rows = [
        [bare(name), bare(scope), summary]
        for name, scope, summary, _ in tables((REFERENCE / "http-api.md").read_text(), "Routes")
    ]
    assert rows == [[f"{route.method} {route.path}", route.scope or "anybody", route.summary] for route in ROUTES]


def commands() -> Iterator[tuple[str, Any]]:
    """(full name, command) of all that can be called."""
    waiting: list[tuple[str, Any]] = [("distributary", typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        if hasattr(command, "commands"):
            waiting += [(f"{path} {name}", command.get_command(None, name)) for name in command.commands]
        else:
            yield path, command


def shown(parameter: Any) -> list[str]:
    """A row of a command's table: its spelling, its default, its help."""
    if parameter.param_type_name == "argument":
        return [f"`{parameter.metavar or parameter.name.upper()}`", "", parameter.help]
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    if default is None or isinstance(default, bool):
        default = ""
    help_ = parameter.help or "What is logged: `DEBUG`, `INFO`, `WARNING` or `ERROR`"
    spelling = ", ".join(f"`{each}`" for each in [*parameter.opts, *parameter.secondary_opts])
    return [spelling, "needed" if parameter.required else f"{default}", help_]


def test_commands() -> None:
    text = (REFERENCE / "cli.md").read_text()
    assert set(re.findall(r"^## `(distributary .+)`$", text, re.MULTILINE)) == {path for path, _ in commands()}
    for path, command in commands():
        assert tables(text, f"`{path}`") == [shown(parameter) for parameter in command.params], path


def test_topics() -> None:
    rows = [
        [
            f"`{spec.name}`",
            "as set" if spec.partitions != 1 else "1",
            spec.cleanup,
            "" if spec.retention_ms is None else f"{spec.retention_ms // 86_400_000} d",
            f"{spec.message_bytes_max >> 20} MiB",
        ]
        for spec in Topics(partitions=8).specs()
    ]
    said = tables((REFERENCE / "topics.md").read_text(), "The table")
    assert [[row[0], *row[3:]] for row in said] == rows


def kind(avro: Any) -> str:
    """An Avro type in words."""
    match avro:
        case ["null", other]:
            return f"{kind(other)} or null"
        case {"type": "array", "items": items}:
            return f"array of {kind(items)}"
        case {"type": "map", "values": values}:
            return f"map of {kind(values)}"
        case {"type": "record" | "enum", "name": name}:
            return str(name)
        case {"logicalType": logical, "type": inner}:
            return f"{inner} ({logical})"
        case str():
            return avro.removeprefix("distributary.")
    raise AssertionError(avro)


@pytest.mark.parametrize(
    ("heading", "schema"),
    [
        ("Event", "event.v3"),
        ("Delivery", "delivery.v2"),
        ("Attempt", "attempt.v1"),
        ("DeadLetter", "dead_letter.v2"),
        ("Subscription", "subscription.v4"),
        ("EndpointState", "endpoint_state.v1"),
        ("Operation", "operation.v2"),
        ("ApiKey", "api_key.v1"),
        ("AuditRecord", "audit_record.v1"),
        ("Source", "source.v1"),
        ("Seen", "seen.v1"),
        ("EventType", "event_type.v1"),
        ("Replay", "replay.v1"),
        ("ReplayProgress", "replay_progress.v1"),
        ("DeadMark", "dead_mark.v1"),
    ],
)
def test_records(heading: str, schema: str) -> None:
    said = tables((REFERENCE / "records.md").read_text(), heading)
    fields = orjson.loads(codec.own_schema(schema))["fields"]
    assert [row[:2] for row in said] == [[f"`{field['name']}`", kind(field["type"])] for field in fields]
    for row, field in zip(said, fields, strict=True):
        assert row[2] == ("" if "default" not in field else f"`{orjson.dumps(field['default']).decode()}`"), row


def test_the_items_of_attempts_in_a_delivery() -> None:
    (attempts,) = (
        field for field in orjson.loads(codec.own_schema("delivery.v2"))["fields"] if field["name"] == "attempts"
    )
    said = tables((REFERENCE / "records.md").read_text(), "Try")
    fields = attempts["type"]["items"]["fields"]
    assert [row[:2] for row in said] == [[f"`{field['name']}`", kind(field["type"])] for field in fields]


def test_the_selection_of_a_replay() -> None:
    (selection,) = (
        each for each in orjson.loads(codec.own_schema("replay.v1"))["fields"] if each["name"] == "selection"
    )
    said = tables((REFERENCE / "records.md").read_text(), "Selection")
    fields = selection["type"]["fields"]
    assert [row[:2] for row in said] == [[f"`{field['name']}`", kind(field["type"])] for field in fields]


def test_subscription_fields() -> None:
    said = {bare(row[0]): row[2] for row in tables((REFERENCE / "subscription.md").read_text(), "Fields")}
    defaults = {}
    for field in msgspec.structs.fields(Subscription):
        default = (
            field.default_factory()
            if field.default is msgspec.NODEFAULT and callable(field.default_factory)
            else field.default
        )
        defaults[field.name] = "needed" if default is msgspec.NODEFAULT else f"`{orjson.dumps(default).decode()}`"
    assert said == defaults


def test_words_for_what_went_wrong() -> None:
    text = (ROOT / "docs/how-to/find-out-why-a-delivery-failed.md").read_text()
    section = text.split("## What the words mean")[1]
    first_cells = [
        {bare(cell) for cell in re.findall(r"^\| (`\w+`) \|", table, re.MULTILINE)}
        for table in re.split(r"\n\n", section)
        if table.startswith("|")
    ]
    outcomes, causes, reasons = first_cells
    assert outcomes == set(OUTCOMES)
    assert causes == CAUSES
    deciding = [ROOT / "streams/core/verdict.py", ROOT / "streams/core/fanout.py", *ROOT.glob("streams/dispatch*.py")]
    source = "".join(path.read_text() for path in deciding)
    found = re.findall(r'(?:Dead|Failure)\("(\w+)"|_bury\([^"]+"(\w+)"', source)
    assert reasons == {judged or buried for judged, buried in found}


def test_reasons_of_quarantine() -> None:
    said = {bare(row[0]) for row in tables((ROOT / "docs/how-to/deal-with-quarantine.md").read_text(), "Reasons")}
    sources = [*(ROOT / "schemas").glob("*.py"), *(ROOT / "streams").rglob("*.py")]
    raised = {
        reason for source in sources for reason in re.findall(r'UndecodableError\(\s*"(\w+)"', source.read_text())
    }
    assert said == raised | REASONS


def test_paths_through_the_tiers() -> None:
    text = (ROOT / "docs/explanation/retries-as-a-timing-wheel.md").read_text()
    units = {"s": 1, "min": 60, "h": 3600}
    names = {hold_ms: suffix for suffix, hold_ms in HOLDS_MS.items()}
    for due, path, records in tables(text, "Retries as a timing wheel"):
        number, unit = due.split()
        left_ms = delay_ms = int(number) * units[unit] * 1000
        taken = []
        while left_ms >= HOLD_MS_MIN:
            hold_ms = tier_hold_ms(left_ms, slack_ms(delay_ms))
            taken.append(names[hold_ms])
            left_ms -= hold_ms
        assert (taken, len(taken)) == (path.split(", "), int(records))


# --- ARCHITECTURE.md --------------------------------------------------------------------------------------------------


def test_the_map_has_every_file() -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text().split("## The files")[1].split("\n## ")[0]
    said = set(re.findall(r"^\| `([\w/.*]+)` \|", section, re.MULTILINE))
    listed = subprocess.run(
        ["git", "ls-files", "--", "schemas", "streams", "connectors", "bench"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    files = {name for name in listed if not name.endswith(("__init__.py", ".avsc", ".toml"))}
    assert said == files | {"schemas/avro/*.avsc", "schemas/examples/*.avsc", "connectors/providers/*.toml"}


def test_bounds_are_those_of_the_code() -> None:
    for what, bound, where in tables((ROOT / "ARCHITECTURE.md").read_text(), "What is bounded, and by what"):
        number = re.match(r"[\d,.]+", bound)
        assert number, what
        assert float(number[0].replace(",", "")) == value_of(bare(where)), (what, bound)


def value_of(where: str) -> float:
    """`module:name`, `module:name[index]`, `module:Class.field`, or `module:Class(argument)` for a default."""
    module, _, name = where.partition(":")
    found: Any = importlib.import_module(module)
    if match := re.fullmatch(r"(\w+)\((\w+)\)", name):
        return float(inspect.signature(getattr(found, match[1])).parameters[match[2]].default)
    if match := re.fullmatch(r"(\w+)\[(\d)\]", name):
        return float(getattr(found, match[1])[int(match[2])])
    for part in name.split("."):
        if inspect.isclass(found) and issubclass(found, msgspec.Struct):
            (field,) = (each for each in msgspec.structs.fields(found) if each.name == part)
            found = field.default
        elif found is Settings:
            found = Settings.model_fields[part].default
        else:
            found = getattr(found, part)
    return float(found)


def test_figures_of_the_readme_are_those_of_the_bench() -> None:
    figures = importlib.import_module("bench.__main__").FIGURES
    rows = tables((ROOT / "README.md").read_text(), "Why switch")
    assert [bare(row[0]) for row in rows] == list(figures)


def test_a_document_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text("# A b\n\n[x](none.md) [y](#no) `schemas/none.py`\n\n```sh not-run\nrm x\n```\n")
    assert anchors(document) == {"a-b"}
    for check in (test_links_lead_somewhere, test_files_that_are_named_exist, test_every_fence_is_of_a_known_kind):
        with pytest.raises(AssertionError):
            check(document)
