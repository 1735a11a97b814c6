"""A sample of what an Avro schema's records look like: always the same for the same schema, valid, and readable.

For the catalog and its readers. This file decodes nothing that came from Kafka and draws no random values.
"""

from __future__ import annotations

from typing import Any

from schemas import codec
from schemas.codec import put_bytes, put_long
from schemas.rendering import logical_type
from schemas.resolution import Resolver

#: 2026-01-01T12:00:00Z, as the logical types that count from 1970 or from midnight have it.
_DAY = 20_454
_MIDDAY_MS = 43_200_000
_MS = _DAY * 86_400_000 + _MIDDAY_MS
_NUMBERS = {
    "date": _DAY,
    "time-millis": _MIDDAY_MS,
    "time-micros": _MIDDAY_MS * 1_000,
    **{f"{local}timestamp-millis": _MS for local in ("", "local-")},
    **{f"{local}timestamp-micros": _MS * 1_000 for local in ("", "local-")},
    **{f"{local}timestamp-nanos": _MS * 1_000_000 for local in ("", "local-")},
}
_UUID = "f81d4fae-7dec-41d0-a765-00a0c91e6bf6"
_PLAIN = {"null": None, "boolean": True, "int": 1, "long": 1, "float": 1.5, "double": 1.5, "bytes": b"bytes"}
#: Values of a sample: a schema of a few lines may nest arrays of records of arrays without end.
VALUES_MAX = 10_000


def sample(avro: str) -> Any:
    """The document of one record, in the JSON form of payloads.

    ValueError when the text is not a valid Avro schema, or no record of it can be made: one that must contain itself,
    or more than `VALUES_MAX` values.
    """
    return Resolver(avro).record(sample_record(avro, 1))


def sample_record(avro: str, schema_id: int) -> bytes:
    """The framed record itself; ValueError as above."""
    parsed = codec.parse_schema(avro)
    try:
        value = _Maker().value(parsed, "", ())
    except RecursionError:
        raise ValueError("a sample would be nested too deeply") from None
    plain = codec.parse_schema(avro, logical_types=False)  # values are made as they are encoded
    return codec.encode(schema_id, plain, value)


class _Maker:
    def __init__(self) -> None:
        self._named: dict[str, Any] = {}
        self._left = VALUES_MAX

    def value(self, node: Any, name: str, inside: tuple[str, ...]) -> Any:
        """`name` is the field's, which is what text says; `inside` are the records around."""
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"a sample would have more than {VALUES_MAX} values")
        if isinstance(node, str):
            if node == "string":
                return name or "text"
            return _PLAIN[node] if node in _PLAIN else self.value(self._named[node], name, inside)
        if isinstance(node, list):
            return self._union(node, name, inside)
        kind = node["type"]
        if "name" in node:
            self._named[node["name"]] = node
        match kind:
            case "record" | "error":
                if node["name"] in inside:
                    raise ValueError(f"a record of {node['name']} must contain itself")
                within = (*inside, node["name"])
                return {each["name"]: self.value(each["type"], each["name"], within) for each in node["fields"]}
            case "array":
                return self._optional(lambda: [self.value(node["items"], name, inside)], [])
            case "map":
                return self._optional(lambda: {"key": self.value(node["values"], name, inside)}, {})
            case "enum":
                return node["symbols"][0]
        return self._logical(node, name, inside)

    def _union(self, branches: list[Any], name: str, inside: tuple[str, ...]) -> Any:
        """The first branch that is not null; null where that would go on for ever."""
        error: ValueError | None = None
        for branch in [*(each for each in branches if each != "null"), *(each for each in branches if each == "null")]:
            try:
                value = self.value(branch, name, inside)
            except ValueError as found:
                error = error or found
                continue
            full = branch["name"] if isinstance(branch, dict) and "name" in branch else branch
            return (full, value) if isinstance(value, dict) and isinstance(full, str) else value
        raise error or ValueError("an empty union has no values")

    @staticmethod
    def _optional(make: Any, empty: Any) -> Any:
        try:
            return make()
        except ValueError:
            return empty

    def _logical(self, node: dict[str, Any], name: str, inside: tuple[str, ...]) -> Any:
        """Of a fixed, or a primitive with a logical type or other attributes."""
        logical, kind = logical_type(node), node["type"]
        if logical in _NUMBERS:
            return _NUMBERS[logical]
        if logical == "uuid" and kind == "string":
            return _UUID
        if logical == "big-decimal":
            return put_bytes(b"\x04\xd2") + put_long(2)
        if logical == "decimal":
            return _decimal(node)
        if kind == "fixed":
            return bytes.fromhex(_UUID.replace("-", "")) if logical == "uuid" else bytes(node["size"])
        return self.value(kind, name, inside)


def _decimal(node: dict[str, Any]) -> bytes:
    number = 1234 if node["precision"] >= 4 and node.get("size", 2) >= 2 else 1
    return number.to_bytes(node.get("size", 2), "big")
