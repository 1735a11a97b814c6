"""The catalog: an AsyncAPI document whose references and examples hold; a page on which no schema can write markup."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from schemas import codec
from schemas.endpoint import Kind
from schemas.event_type import EventType
from schemas.operation_types import RECORD_NAME, is_operation_type, operation_types
from streams.core.catalog import Described, Schema, asyncapi, describe
from streams.core.catalog_page import html

ROOT = Path(__file__).parents[2]
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"
#: The official JSON Schema of AsyncAPI documents, as its authors publish it.
OFFICIAL = "@asyncapi/specs@6.11.1"


def schemas() -> list[Schema]:
    """Our own records, five versions of an order, and some that are hostile, of a key, or cannot have an example."""
    found = [
        Schema("distributary.Event", 2, 1, "distributary.Event", codec.own_schema("event.v2")),
        Schema("distributary.Delivery", 1, 2, "distributary.Delivery", codec.own_schema("delivery.v1")),
    ]
    for version in range(1, 6):
        text = (ROOT / f"schemas/examples/order.v{version}.avsc").read_text()
        found.append(Schema("shop.Order", version, 10 + version, "shop.Order", text))
    odd = {"type": "record", "name": "Odd", "doc": HOSTILE, "fields": [{"name": "a", "type": "int", "doc": HOSTILE}]}
    endless = {"type": "record", "name": "Endless", "fields": [{"name": "a", "type": "Endless"}]}
    found.append(Schema(HOSTILE, 1, 20, "Odd", json.dumps(odd)))
    found.append(Schema(HOSTILE.replace("'", '"'), 1, 21, "Odd", json.dumps(odd)))  # the same but for what is replaced
    found.append(Schema("events-key", 1, 22, "Odd", json.dumps(odd)))
    found.append(Schema("endless", 1, 23, "Endless", json.dumps(endless)))
    found.append(Schema("text", 1, 24, "", '"string"'))
    return found


@pytest.fixture(scope="module")
def described() -> list[Described]:
    return describe(schemas())


@pytest.fixture(scope="module")
def document(described: list[Described]) -> dict[str, Any]:
    found = asyncapi(described, title=HOSTILE, version="1.0.0", events_topic="events")
    again: dict[str, Any] = json.loads(json.dumps(found))
    assert again == found
    return again


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def at(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def test_all_versions_of_events_are_in_it_and_nothing_else(described: list[Described]) -> None:
    assert [(each.schema.subject, each.schema.version) for each in described] == sorted(
        [
            ("distributary.Event", 2),
            *(("shop.Order", version) for version in range(1, 6)),
            (HOSTILE, 1),
            (HOSTILE.replace("'", '"'), 1),
            ("endless", 1),
        ]
    )
    assert len({each.slug for each in described}) == len(described)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = list(references(document))
    assert len(found) > 30
    for reference in found:
        assert at(document, reference) is not None


def test_every_example_is_valid_for_its_payload(document: dict[str, Any]) -> None:
    messages = document["components"]["messages"]
    checked = 0
    for name, message in messages.items():
        for example in message.get("examples", ()):
            schema = message["payload"] | {"components": document["components"]}
            jsonschema.Draft7Validator(schema).validate(example["payload"])
            wrong = example["payload"] | {"data": {"id": 1}}
            assert name.startswith("distributary") or not jsonschema.Draft7Validator(schema).is_valid(wrong)
            checked += 1
    assert checked == 8
    assert "examples" not in messages["endless.v1.webhook"]


def test_it_is_the_same_whatever_order_the_registry_answers_in(document: dict[str, Any]) -> None:
    turned = asyncapi(describe(schemas()[::-1]), title=HOSTILE, version="1.0.0", events_topic="events")
    assert json.dumps(turned["channels"]["webhooks"]) == json.dumps(document["channels"]["webhooks"])


def test_the_official_schema_finds_nothing_wrong(document: dict[str, Any], tmp_path: Path) -> None:
    """No Python package carries that schema, and it is not copied here: npm fetches it where it can."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("the official AsyncAPI schema comes by npm, which is not installed")
    fetched = subprocess.run(
        [npm, "pack", "--silent", OFFICIAL], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=90
    )
    if fetched.returncode:
        pytest.skip(f"npm cannot fetch the official AsyncAPI schema: {fetched.stderr.strip()[:200]}")
    (packed,) = tmp_path.glob("*.tgz")
    with tarfile.open(packed) as archive:
        member = archive.extractfile("package/schemas/3.0.0.json")
        assert member is not None
        official = jsonschema.Draft7Validator(json.load(member))
    assert [error.message for error in official.iter_errors(document)] == []
    broken = document | {"operations": {"x": {"action": "publish", "channel": {"$ref": "#/channels/events"}}}}
    assert not official.is_valid(broken)


class Page(HTMLParser):
    """The elements of a page, and what stands in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(described: list[Described]) -> Page:
    return Page(html(described, title=HOSTILE, version=HOSTILE, events_topic=HOSTILE))


def test_what_a_schema_says_is_text_on_the_page(page: Page) -> None:
    assert not page.all("img")
    assert len(page.all("script")) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) > 4


def test_the_page_needs_no_network(page: Page) -> None:
    (policy,) = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert not page.all("link")
    assert not [attributes for _, attributes in page.elements if "src" in attributes]
    assert all((each["href"] or "").startswith("#s") for each in page.all("a"))


def test_the_page_can_be_used_without_seeing_it(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("main")) == len(page.all("h1")) == len(page.all("title")) == 1
    assert [each["for"] for each in page.all("label")] == [each["id"] for each in page.all("input")]
    assert {f"#{each['id']}" for each in page.all("section") if "id" in each} == {
        each["href"] for each in page.all("a")
    }
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    opened = [each for each in page.all("details") if "open" in each]
    assert len(opened) == len(page.all("a"))  # the newest version of each subject


def test_a_registry_without_events_is_said_to_be_empty() -> None:
    assert "holds no schemas of events" in html([], title="t", version="1", events_topic="events")


def test_what_operators_are_told_of_is_in_it_where_it_is_asked_for() -> None:
    own = [
        Schema("operations-value", version, version, RECORD_NAME, codec.own_schema(f"operation.v{version}"))
        for version in (1, 2)
    ]
    assert describe(own) == []
    types = operation_types("operations-value")
    found = asyncapi(
        describe(own, operations=True), title="t", version="1.0.0", events_topic="events", event_types=types
    )
    assert found["channels"]["events"]["messages"] == {}
    messages = found["components"]["messages"]
    assert list(messages) == ["operations-value.v1.webhook", "operations-value.v2.webhook"]
    for message in messages.values():
        assert [example["name"] for example in message["examples"]] == [each.name for each in types]
        validator = jsonschema.Draft7Validator(message["payload"] | {"components": found["components"]})
        for example in message["examples"]:
            validator.validate(example["payload"])
    assert all(is_operation_type(each.name) for each in types)
    assert not is_operation_type("circuit.opened")
    assert not is_operation_type("operation.other")
    listed = {each["name"]: each["example"]["kind"] for each in found["x-event-types"]}
    assert listed == {f"operation.{kind}": kind for kind in get_args(Kind)}


def test_event_types_that_are_described_are_in_it(described: list[Described]) -> None:
    types = [
        EventType(name="user.gone", description=HOSTILE, deprecated=True),
        EventType(name="order.created", group="Orders", schema="shop.Order", example='{"n":1}'),
    ]
    more: dict[str, Any] = {"title": "t", "version": "1.0.0", "events_topic": "events", "event_types": types}
    assert [each["name"] for each in asyncapi(described, **more)["x-event-types"]] == ["user.gone", "order.created"]
    assert asyncapi(described, **more)["x-event-types"][1]["example"] == {"n": 1}
    page = html(described, **more)
    assert page.index("user.gone (deprecated)") < page.index("<h3>Orders</h3>") < page.index("<dt>order.created</dt>")
    assert "Its data is <code>shop.Order</code>." in page
    assert HOSTILE not in page
    assert "x-event-types" not in asyncapi(described, title="t", version="1.0.0", events_topic="events")
