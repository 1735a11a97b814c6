"""`decode_render`: an order of version 5 read as version 3 and rendered as JSON, and plain fastavro with orjson on it.

No Kafka: what fan-out does for one variant of an event, by itself. The reference resolves with fastavro's own reader,
and leaves every form to orjson but those that it does not know.
"""

from __future__ import annotations

import base64
import io
from decimal import Decimal
from typing import Any

import fastavro
import orjson

from bench import harness
from bench.harness import cpu_s, report
from schemas import codec
from schemas.examples import order_record, order_schema
from schemas.rendering import render_json
from schemas.resolution import Resolver

WRITTEN, PINNED = 5, 3
EVENTS = 2_000
ROUNDS = 20


def compare() -> None:
    """A role: reports events a CPU second of both, the best of rounds that take turns."""
    writer, reader = order_schema(WRITTEN), order_schema(PINNED)
    plain_writer = codec.parse_schema(writer, logical_types=False)
    values = [codec.encode(1, plain_writer, order_record(WRITTEN, number)) for number in range(EVENTS)]
    resolver = Resolver(writer, reader)

    def ours() -> None:
        for value in values:
            render_json(resolver.record(value))

    parsed_writer, parsed_reader = (
        fastavro.parse_schema(orjson.loads(text), named_schemas={}) for text in (writer, reader)
    )

    def form(value: Any) -> Any:
        return str(value) if isinstance(value, Decimal) else base64.b64encode(value).decode()

    def reference() -> None:
        for value in values:
            stream = io.BytesIO(value)
            stream.seek(codec.HEADER_BYTES)
            orjson.dumps(fastavro.schemaless_reader(stream, parsed_writer, parsed_reader), default=form)

    best: list[float] = [0.0, 0.0]
    for _ in range(ROUNDS):
        for which, work in enumerate((ours, reference)):
            started = cpu_s()
            work()
            best[which] = max(best[which], EVENTS / (cpu_s() - started))
    report(best)


def main(_: str) -> None:
    """Both in one process, in turns."""
    ours, reference = harness.run("bench.render:compare")
    harness.show("plain_fastavro_orjson", reference, "events/cpu_s")
    harness.show("decode_render", ours, "events/cpu_s", ratio=ours / reference, vs="plain_fastavro_orjson")
