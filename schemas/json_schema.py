"""JSON Schema (2020-12) of the documents that an Avro schema's records are rendered as.

For tests, the catalog and consumers. It says what `schemas/rendering.py` and `schemas/resolution.py` produce: every
field is there, and no other. This file validates nothing.
"""

from __future__ import annotations

from typing import Any

from schemas import codec
from schemas.matching import Node, kind_of
from schemas.rendering import DIGITS, logical_type

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{2}:[0-9]{2}:[0-9]{2}\."
_HEX = r"[0-9a-f]"
_PLAIN: dict[str, dict[str, Any]] = {
    "null": {"type": "null"},
    "boolean": {"type": "boolean"},
    "int": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "long": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "float": {"type": ["number", "null"]},  # null: NaN and the infinities
    "double": {"type": ["number", "null"]},
    "string": {"type": "string"},
    "bytes": {"type": "string", "contentEncoding": "base64"},
}


def json_schema(avro: str) -> dict[str, Any]:
    """The JSON Schema of an Avro schema's documents. Named types are in `$defs` under their full names.

    ValueError when the text is not a valid Avro schema.
    """
    defined: dict[str, Any] = {}
    schema = _schema(codec.parse_schema(avro), defined)
    return {"$schema": DIALECT} | schema | ({"$defs": defined} if defined else {})


def _schema(node: Node, defined: dict[str, Any]) -> dict[str, Any]:
    kind = kind_of(node)
    name = logical_type(node)
    if name is not None and kind != "fixed":
        return _logical(name, node)
    match kind:
        case "union":
            return {"anyOf": [_schema(branch, defined) for branch in node]} if node else {"not": {}}
        case "array":
            return {"type": "array", "items": _schema(node["items"], defined)}
        case "map":
            return {"type": "object", "additionalProperties": _schema(node["values"], defined)}
        case "record":
            properties: dict[str, Any] = {}
            found = {"type": "object", "properties": properties}
            defined[node["name"]] = found | _described(node)
            for field in node["fields"]:
                properties[field["name"]] = _schema(field["type"], defined) | _described(field)
            defined[node["name"]] |= {"required": list(properties), "additionalProperties": False}
            return _reference(node["name"])
        case "enum":
            defined[node["name"]] = {"enum": list(node["symbols"])} | _described(node)
            return _reference(node["name"])
        case "fixed":
            length = -(-node["size"] // 3) * 4
            text = {"type": "string", "contentEncoding": "base64", "minLength": length, "maxLength": length}
            defined[node["name"]] = (_logical(name, node) if name is not None else text) | _described(node)
            return _reference(node["name"])
    return dict(_PLAIN[kind]) if kind in _PLAIN else _reference(kind)


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def _described(node: dict[str, Any]) -> dict[str, Any]:
    return {"description": node["doc"]} if isinstance(node.get("doc"), str) else {}


def _logical(name: str, node: dict[str, Any]) -> dict[str, Any]:
    # `format` is but a note in 2020-12 unless a validator is told otherwise, so patterns say what they can as well.
    match name:
        case "date":
            return {"type": "string", "format": "date", "pattern": f"^{_DATE}$"}
        case "decimal":
            scale = node.get("scale", 0)
            return {"type": "string", "pattern": "^-?[0-9]+" + (rf"\.[0-9]{{{scale}}}$" if scale else "$")}
        case "big-decimal":
            return {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}
        case "uuid":
            exact = {"pattern": f"^{_HEX}{{8}}-({_HEX}{{4}}-){{3}}{_HEX}{{12}}$"} if node["type"] == "fixed" else {}
            return {"type": "string", "format": "uuid"} | exact
        case "duration":
            return {"type": "string", "format": "duration", "pattern": r"^P[0-9]+M[0-9]+DT[0-9]+\.[0-9]{3}S$"}
    fraction = f"[0-9]{{{DIGITS[name.rpartition('-')[2]]}}}"
    if name.startswith("time-"):
        return {"type": "string", "pattern": f"^{_CLOCK}{fraction}$"}
    if name.startswith("local-"):
        return {"type": "string", "pattern": f"^{_DATE}T{_CLOCK}{fraction}$"}
    return {"type": "string", "format": "date-time", "pattern": f"^{_DATE}T{_CLOCK}{fraction}Z$"}
