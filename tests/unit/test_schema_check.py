"""What a proposed schema breaks: the level, and subscriptions by the version that they are pinned to."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest

from schemas.compatibility import Level
from schemas.subjects import LATEST
from schemas.subscription import Subscription
from streams.cli.schema_check import as_document, in_words
from streams.core.schema_check import Report, check


def schema(*fields: tuple[str, Any]) -> str:
    listed = [{"name": name, "type": type_} for name, type_ in fields]
    return orjson.dumps({"type": "record", "name": "Order", "fields": listed}).decode()


V1 = schema(("number", "long"), ("note", "string"))
V2 = schema(("number", "long"))
VERSIONS = {1: V1, 2: V2}
TEXT_NUMBER = schema(("number", "string"), ("note", "string"))


def subscription(
    name: str, version: int = 0, types: tuple[str, ...] = ("order.*",), tenant: str = "default"
) -> Subscription:
    return Subscription(id=name, tenant=tenant, url="https://example.com/", event_types=types, schema_version=version)


def report(
    proposed: str, *subscriptions: Subscription, level: Level = Level.NONE, types: tuple[str, ...] = ("order.created",)
) -> Report:
    return check(proposed, VERSIONS, level, types, subscriptions)


def test_a_pinned_version_that_cannot_read_what_is_written_breaks() -> None:
    found = report(V2, subscription("one", 1), subscription("two", 2), subscription("plain"))
    assert [(one.id, one.schema_version, one.event_types) for one in found.broken] == [("one", 1, ("order.created",))]
    (reason,) = found.broken[0].reasons
    assert (reason.version, reason.path) == (1, "$.note")
    assert "note" in reason.path
    assert (found.pinned, found.as_written, found.fine) == (2, 1, False)
    assert found.broken_types == ("order.created",)


def test_latest_breaks_when_events_of_before_cannot_be_read() -> None:
    found = report(V1, subscription("newest", LATEST))
    assert [reason.version for reason in found.broken[0].reasons] == [2]
    assert report(V2, subscription("newest", LATEST)).fine


def test_only_subscriptions_of_the_event_types_are_looked_at() -> None:
    pinned = [
        subscription("other", 1, ("invoice.*",)),
        subscription("exact", 1, ("order.created",)),
        subscription("all", 1, ("*",), tenant="acme"),
    ]
    found = report(TEXT_NUMBER, *pinned, types=("order.created", "order.paid"))
    assert [(one.id, one.tenant, one.event_types) for one in found.broken] == [
        ("all", "acme", ("order.created", "order.paid")),
        ("exact", "default", ("order.created",)),
    ]
    assert report(TEXT_NUMBER, *pinned, types=()).fine


@pytest.mark.parametrize(("version", "fine"), [(3, True), (4, False)])
def test_a_pin_to_a_version_that_will_not_be_there(version: int, fine: bool) -> None:
    found = report(V2, subscription("ahead", version))
    assert found.fine is fine
    assert fine or found.broken[0].reasons[0].sentence == "the subject has no such version"


def test_the_level_is_what_the_registry_would_refuse_for() -> None:
    found = report(TEXT_NUMBER, level=Level.BACKWARD)
    assert {reason.version for reason in found.level_reasons} == {2}
    assert {reason.path for reason in found.level_reasons} == {"$.number", "$.note"}
    assert not found.fine
    assert report(TEXT_NUMBER).fine


def test_the_first_version_breaks_nothing() -> None:
    assert check(V1, {}, Level.FULL, ("order.created",), [subscription("one", 1)]).fine


def test_both_forms_say_the_same() -> None:
    found = report(V1, subscription("newest", LATEST), subscription("plain"), level=Level.BACKWARD)
    document = orjson.loads(msgspec.json.encode(as_document(found, "shop.Order")))
    assert document["subject"] == "shop.Order"
    assert document["fine"] is False
    assert document["broken"][0]["schema_version"] == "latest"
    assert document["broken_types"] == ["order.created"]
    lines = list(in_words(found, "shop.Order"))
    assert lines[0].startswith("the registry refuses it (BACKWARD): version 2: $.note: ")
    assert lines[1].startswith("breaks newest of default (order.created), pinned to latest: version 2: $.note: ")
    assert lines[2] == "event types that break: order.created"
    (line,) = in_words(report(V2, subscription("two", 2), subscription("plain")), "shop.Order")
    assert line.startswith("nothing breaks: NONE of shop.Order is kept, and 1 of 1 pinned subscriptions")
    assert line.endswith("; 1 get events as written")
