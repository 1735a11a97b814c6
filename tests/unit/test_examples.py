"""The example application: its versions keep the promise that each is readable as every other one."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path
from typing import Any

import fastavro
import orjson
import pytest
from jsonschema import Draft202012Validator

from schemas import codec
from schemas.compatibility import Level, incompatibilities
from schemas.examples import VERSIONS, order_record, order_schema
from schemas.json_schema import json_schema
from schemas.resolution import Resolver

PAIRS = list(itertools.product(VERSIONS, VERSIONS))


def document(writer: int, reader: int) -> Any:
    raw = codec.parse_schema(order_schema(writer), logical_types=False)
    return Resolver(order_schema(writer), order_schema(reader)).record(codec.encode(1, raw, order_record(writer)))


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_every_version_is_read_as_every_other_and_is_valid_for_it_alone(writer: int, reader: int) -> None:
    found = document(writer, reader)
    valid = {
        version for version in VERSIONS if Draft202012Validator(json_schema(order_schema(version))).is_valid(found)
    }
    assert reader in valid
    assert valid <= {3, 4} if reader in (3, 4) else valid == {reader}  # 3 and 4 differ in a number's type only


def test_what_older_versions_see_of_the_newest() -> None:
    assert document(5, 1) == {
        "id": "o-1",
        "placed_at": "2026-11-22T10:00:00.124Z",
        "customer": {"id": "c-1", "email": "ada@example.com"},
        "lines": [
            {"sku": "espresso-beans-1kg", "quantity": 2, "price": "18.49"},
            {"sku": "filter-papers", "quantity": 1, "price": "2.99"},
        ],
        "weight_kg": 3.0,
        "coupon": "",  # it is called voucher now, which version 1 cannot know
    }
    assert document(5, 2)["status"] == "UNKNOWN"
    assert (document(5, 4)["weight_kg"], document(5, 4)["note"]) == (3, None)


def test_what_the_newest_sees_of_the_oldest() -> None:
    found = document(1, 5)
    assert list(found) == [
        *("id", "placed_at", "customer", "lines", "weight_kg", "voucher", "status", "currency", "deliver_on"),
    ]
    assert (found["voucher"], found["status"], found["currency"], found["deliver_on"]) == (
        *("AUTUMN", "UNKNOWN", "EUR", None),
    )
    assert found["customer"] == {"id": "c-1", "email": "ada@example.com", "country": ""}


@pytest.mark.parametrize("version", VERSIONS)
def test_each_is_compatible_with_all_before_it(version: int) -> None:
    earlier = [order_schema(before) for before in VERSIONS if before < version]
    assert incompatibilities(Level.FULL_TRANSITIVE, order_schema(version), earlier) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_each_says_what_changed_and_has_a_record(version: int) -> None:
    schema = order_schema(version)
    assert orjson.loads(schema)["doc"]
    assert fastavro.validate(order_record(version), codec.parse_schema(schema, logical_types=False), strict=True)


def test_they_are_packaged() -> None:
    package = Path(__file__).parents[2] / "pyproject.toml"
    assert "examples/*.avsc" in tomllib.loads(package.read_text())["tool"]["setuptools"]["package-data"]["schemas"]
