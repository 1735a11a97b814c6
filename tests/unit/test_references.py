"""Schemas that refer to others: looked up once each, written out once each, bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pytest

from schemas import codec
from schemas.references import REFERENCES_BYTES_MAX, REFERENCES_MAX, Reference, Referring, put_together, written_out

CURRENCY = '{"type": "enum", "name": "acme.Currency", "symbols": ["EUR", "CHF"]}'
MONEY = """{"type": "record", "name": "Money", "namespace": "acme", "fields": [
    {"name": "amount", "type": "long"}, {"name": "currency", "type": "Currency"}]}"""
PLAIN = '{"type": "record", "name": "Plain", "fields": [{"name": "money", "type": "acme.Money"}]}'

Shelf = Mapping[tuple[str, int], Referring]
SHELF: Shelf = {
    ("currency", 1): (CURRENCY, ()),
    ("money", 2): (MONEY, (Reference("acme.Currency", "currency", 1),)),
    ("plain", 1): (PLAIN, (Reference("acme.Money", "money", 2),)),
}
TO_MONEY, TO_CURRENCY = Reference("acme.Money", "money", 2), Reference("acme.Currency", "currency", 1)


def record(*types: Any, namespace: str = "shop") -> str:
    fields = [{"name": f"f{n}", "type": type_} for n, type_ in enumerate(types)]
    return orjson.dumps({"type": "record", "name": "Order", "namespace": namespace, "fields": fields}).decode()


def together(schema: str, references: Sequence[Reference], shelf: Shelf = SHELF) -> str:
    return put_together(schema, references, lambda one: shelf[one.subject, one.version])


def named(text: str) -> list[str]:
    """The full names that a schema defines, each as often as it does."""
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item)
        elif isinstance(node, dict):
            if node.get("type") in ("record", "enum"):
                found.append(node["name"])
            for field in node.get("fields", [node]):
                for key in ("type", "items", "values"):
                    if isinstance(field.get(key), dict | list):
                        walk(field[key])

    walk(codec.parse_schema(text))
    return found


@pytest.mark.parametrize(
    "schema",
    [
        record("acme.Money"),
        record("acme.Money", "acme.Money", "acme.Currency"),
        record(["null", "acme.Money"], {"type": "array", "items": "acme.Currency"}),
        record({"type": "map", "values": "Money"}, {"type": "Currency"}, namespace="acme"),
        '["null", "acme.Money"]',
    ],
)
def test_each_type_is_written_in_where_it_is_first_named(schema: str) -> None:
    text = together(schema, [TO_MONEY, TO_CURRENCY])
    assert sorted(set(named(text)) - {"shop.Order", "acme.Order"}) == ["acme.Currency", "acme.Money"]
    assert len(named(text)) == len(set(named(text)))


def test_a_type_without_a_namespace_gets_none_where_it_is_written_in() -> None:
    text = together(record("Plain"), [Reference("Plain", "plain", 1)])
    assert named(text) == ["shop.Order", "Plain", "acme.Money", "acme.Currency"]


def test_what_the_schema_defines_itself_stays() -> None:
    own = {"type": "enum", "name": "acme.Currency", "symbols": ["EUR"]}
    text = together(record(own, "acme.Money"), [TO_MONEY])
    assert named(text) == ["shop.Order", "acme.Currency", "acme.Money"]
    assert "CHF" not in text


def test_without_references_the_text_is_the_one_given() -> None:
    assert together(f" {CURRENCY} ", []) == f" {CURRENCY} "


def test_each_is_looked_up_once() -> None:
    asked: list[Reference] = []

    def look_up(reference: Reference) -> Referring:
        asked.append(reference)
        return SHELF[reference.subject, reference.version]

    put_together(record("acme.Money", "acme.Currency"), [TO_MONEY, TO_CURRENCY], look_up)
    assert asked == [TO_MONEY, TO_CURRENCY]


async def test_waiting_for_the_registry_makes_no_difference() -> None:
    async def fetch(reference: Reference) -> Referring:
        return SHELF[reference.subject, reference.version]

    schema = record("acme.Money")
    assert await written_out(schema, [TO_MONEY], fetch) == together(schema, [TO_MONEY])


def test_a_cycle_is_refused() -> None:
    shelf = {("a", 1): (CURRENCY, (Reference("B", "b", 1),)), ("b", 1): (CURRENCY, (Reference("A", "a", 1),))}
    with pytest.raises(ValueError, match="refers to itself by way of a version 1"):
        together(record("A"), [Reference("A", "a", 1)], shelf)


def test_more_than_so_many_are_refused() -> None:
    shelf = {(f"s{n}", 1): (f'{{"type": "fixed", "name": "F{n}", "size": 1}}', ()) for n in range(REFERENCES_MAX + 1)}
    references = [Reference(f"F{n}", f"s{n}", 1) for n in range(REFERENCES_MAX + 1)]
    together(record(namespace=""), references[:-1], shelf)
    with pytest.raises(ValueError, match=f"more than {REFERENCES_MAX} others"):
        together(record(), references, shelf)


def test_a_chain_that_never_ends_is_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        put_together(
            record("R"), [Reference("R", "s", 1)], lambda one: (CURRENCY, [Reference("R", "s", one.version + 1)])
        )


def test_more_than_so_many_bytes_are_refused() -> None:
    shelf = {
        ("big", n): (f'{{"doc": "{"x" * (1 << 20)}", "type": "fixed", "name": "B", "size": 1}}', ()) for n in range(9)
    }
    with pytest.raises(ValueError, match=f"larger than {REFERENCES_BYTES_MAX} bytes"):
        together(record(), [Reference("B", "big", n) for n in range(9)], shelf)


@pytest.mark.parametrize("schema", ["{", "[" * 2000 + "]" * 2000])
def test_what_is_no_json_is_a_value_error(schema: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        together(schema, [TO_CURRENCY])


def test_what_doubles_with_each_reference_is_refused_before_it_is_written() -> None:
    """Two to the power of sixty would be no error but the end of the process."""
    shelf: dict[tuple[str, int], Referring] = {("t0", 1): ('"string"', ())}
    for number in range(1, 61):
        before = f"t{number - 1}"
        twice = orjson.dumps([{"type": "array", "items": before}, {"type": "map", "values": before}]).decode()
        shelf[f"t{number}", 1] = (twice, (Reference(before, before, 1),))
    assert together(record("t3"), (Reference("t3", "t3", 1),), shelf).count("string") == 8
    with pytest.raises(ValueError, match="larger than"):
        together(record("t60"), (Reference("t60", "t60", 1),), shelf)
