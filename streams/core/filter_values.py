"""The values in an event's document, as filters look at them.

A document is what JSON decodes to. Numbers are compared exactly: ints and Decimals as they are, a float as the shortest
text that reads back as it (which is what JSON writes for it). `load_json` loses no digit.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

Document = dict[str, Any]

MISSING: Any = object()
#: Types whose values are compared as they are. Booleans are not: True == 1.
PLAIN = frozenset({str, int, Decimal, type(None)})
#: Equal to no key: what no filter asks for by its value.
NO_KEY: Any = object()
_TRUE, _FALSE = object(), object()


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond what a Decimal can hold: 0, or nothing that JSON readers take
        if float(text) != 0:
            raise ValueError("a number is too large") from None
        return Decimal(0)


_decoder = msgspec.json.Decoder(float_hook=_decimal)


def load_json(data: bytes) -> Any:
    """Decode JSON for filters: every digit of every number is kept. ValueError when it is not JSON.

    As fast as orjson, which makes floats of decimals and of integers beyond 64 bits.
    """
    try:
        return _decoder.decode(data)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def scalar_key(value: Any) -> Any:
    """What stands for a scalar in sets: equal for equal JSON values, and True is not 1. A float that JSON cannot write
    is null there."""
    if type(value) in PLAIN:
        return value
    if value is True:
        return _TRUE
    if value is False:
        return _FALSE
    if type(value) is float:
        return Decimal(repr(value)) if math.isfinite(value) else None
    return NO_KEY  # nothing that JSON decodes to


def number_of(value: Any) -> int | Decimal | None:
    """The number that a value is; None for anything else."""
    if type(value) is int or type(value) is Decimal:
        return value
    if type(value) is float and math.isfinite(value):
        return Decimal(repr(value))
    return None


def address_of(value: Any) -> tuple[int, int] | None:
    """(4 or 6, the address as a number) of a text that is an IP address, without a zone; None for anything else."""
    # The longest is an IPv6 address that ends with an IPv4 one; a zone is part of no network.
    if type(value) is not str or not 2 <= len(value) <= 45 or "%" in value:
        return None
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        return None
    return found.version, int(found)


def scalars(values: Iterable[Any]) -> Iterator[Any]:
    """The texts, numbers, booleans and nulls in an array and the arrays in it, in order."""
    waiting = [iter(values)]
    while waiting:
        for value in waiting[-1]:
            if type(value) is list:
                waiting.append(iter(value))
                break
            if type(value) is not dict:
                yield value
        else:
            waiting.pop()


def objects(values: Iterable[Any]) -> Iterator[Document]:
    """The objects in an array and the arrays in it, in order."""
    waiting = [iter(values)]
    while waiting:
        for value in waiting[-1]:
            if type(value) is list:
                waiting.append(iter(value))
                break
            if type(value) is dict:
                yield value
        else:
            waiting.pop()
