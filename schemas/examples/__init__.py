"""An application's schemas, by example: five versions of an order, and a record of each.

`order.v1.avsc` to `order.v5.avsc` change in the ways that keep every version readable as every other one, newer or
older: what changed stands in each schema's `doc`. The engine uses none of this; tests, the bench and readers do.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

VERSIONS = (1, 2, 3, 4, 5)
_PLACED_MS = 1_795_341_600_123  # 2026-11-22T10:00:00.123Z


def order_schema(version: int) -> str:
    """The text of a version of `shop.Order`."""
    return resources.files("schemas.examples").joinpath(f"order.v{version}.avsc").read_text("utf-8")


def order_record(version: int, number: int = 1) -> dict[str, Any]:
    """An order to be encoded with that version, without logical types; another number makes another order."""
    customer = {"id": f"c-{number}", "email": "ada@example.com"}
    lines = [
        {"sku": "espresso-beans-1kg", "quantity": 2, "price": b"\x07\x39"},  # 18.49
        {"sku": "filter-papers", "quantity": number, "price": b"\x01\x2b"},  # 2.99
    ]
    record: dict[str, Any] = {"id": f"o-{number}", "placed_at": _PLACED_MS + number, "customer": customer}
    record |= {"lines": lines, "weight_kg": 2.25 if version < 4 else 3}
    record |= {"coupon": "AUTUMN"} if version < 3 else {"voucher": "AUTUMN"}
    if version >= 2:
        record |= {"status": "PAID" if version < 5 else "RETURNED"}
    if version >= 3:
        customer["country"] = "GB"
    if 2 <= version < 5:
        record |= {"note": "Ring twice."}
    if version >= 5:
        record |= {"currency": "GBP", "deliver_on": 20_782}  # 2026-11-25
    return record
