"""An event as it reads in one version of its schema: JSON and Avro, each made when it is first asked for.

This file does not look up which version a subscription gets (`streams/versions.py`), and knows no payload format.
"""

from __future__ import annotations

from typing import Any

import orjson

from schemas import codec
from schemas.errors import UndecodableError, UnresolvableError
from schemas.rendering import render_json
from schemas.resolution import Resolver
from schemas.topics import DATA_BYTES_MAX
from streams.core.filter_values import load_json


class Reading:
    """How to read what was written with one schema as a version of it. Safe to share between events."""

    __slots__ = ("_avro", "_reader", "_resolver", "_writer", "schema_id", "version")

    def __init__(self, writer: str, schema_id: int, version: int, reader: str) -> None:
        """Schemas as text; `schema_id` is the reader's. ValueError or UnresolvableError when they cannot be read, or
        no record ever resolves."""
        self.schema_id = schema_id
        self.version = version
        self._writer = writer
        self._reader = reader
        self._resolver = Resolver(writer, reader)
        self._avro: tuple[codec.Schema, codec.Schema] | None = None

    def data(self, value: bytes) -> bytes:
        """The JSON of a framed value. UnresolvableError."""
        try:
            data = render_json(self._resolver.record(value))
        except UndecodableError as error:
            raise UnresolvableError("$", str(error)) from None
        if len(data) > DATA_BYTES_MAX:
            raise UnresolvableError("$", f"its JSON of {len(data)} bytes is more than {DATA_BYTES_MAX}")
        return data

    def avro(self, value: bytes) -> bytes:
        """A framed value, written anew with this version's schema. UnresolvableError."""
        if self._avro is None:
            self._avro = (
                codec.parse_schema(self._writer, logical_types=False),
                codec.parse_schema(self._reader, logical_types=False),
            )
        try:
            # With the names of types: of a union, the branch is written that was read.
            record = codec.decode(value, *self._avro, named=True)
            again = codec.encode(self.schema_id, self._avro[1], record)
        except (UndecodableError, ValueError) as error:
            raise UnresolvableError("$", str(error)) from None
        if len(again) > DATA_BYTES_MAX:
            raise UnresolvableError("$", f"its Avro of {len(again)} bytes is more than {DATA_BYTES_MAX}")
        return again


class View:
    """One event in one version. `version` is 0 for what has none."""

    __slots__ = ("_data", "_decoded", "_document", "_reading", "_value", "_written", "version")

    def __init__(self, value: bytes, data: bytes | None, version: int, reading: Reading | None = None) -> None:
        """`value` is the event's as it came, `data` its JSON. With a `reading`, both are made from the value."""
        self.version = version
        self._reading = reading
        self._written = value
        self._value: bytes | None = None if reading else value
        self._data = data
        self._document: Any = None
        self._decoded: Any = None

    @property
    def data(self) -> bytes:
        """JSON. UnresolvableError with the place of what cannot be read."""
        if self._data is None:
            assert self._reading is not None
            self._data = self._reading.data(self._written)
        return self._data

    @property
    def value(self) -> bytes:
        """Framed Avro. UnresolvableError."""
        if self._value is None:
            assert self._reading is not None
            self._value = self._reading.avro(self._written)
        return self._value

    @property
    def document(self) -> Any:
        """The data for filters, every digit kept."""
        if self._document is None:
            self._document = load_json(self.data)
        return self._document

    @property
    def decoded(self) -> Any:
        """The data for transforms."""
        if self._decoded is None:
            self._decoded = orjson.loads(self.data)
        return self._decoded
