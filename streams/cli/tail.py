"""`distributary tail`: what goes by on a topic, a line for people or a JSON line for programs.

Secrets are in none of these topics; the value of a quarantined record is never printed: nobody knows what it holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Annotated, Any, Literal, get_args

import orjson
import typer
from confluent_kafka import Message

from connectors.feed import Reader
from schemas.errors import UndecodableError, UnknownSchemaError
from schemas.topics import Topics
from streams import quarantine
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings, open_registry
from streams.cli.output import emit, many, note, say, watching
from streams.cli.running import run
from streams.cli.values import Values, iso
from streams.core.parked import FINISHED
from streams.settings import Settings
from streams.wiring import client_config

Name = Literal["events", "deliveries", "parked", "replay", "attempts", "dead", "quarantine", "operations"]
#: Topics whose key is the subscription's id.
_BY_SUBSCRIPTION = ("deliveries", "parked", "replay", "attempts", "dead", "operations")
_STYLES = {"delivered": "green", "retryable": "yellow", "rejected": "red", "exhausted": "red", "cancelled": "dim"}
_OPERATION_STYLES = {
    "endpoint.disabled": "red",
    "circuit.opened": "yellow",
    "endpoint.enabled": "green",
    "circuit.closed": "green",
    "dead_letters.written": "red",
    "quarantine.grew": "yellow",
}


def tail(
    topic: Annotated[Name, typer.Argument(help="What to look at", metavar="|".join(get_args(Name)))],
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Start with the oldest record")] = False,
    follow: Annotated[bool, typer.Option(help="Wait for more; otherwise end when all is read")] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many records")] = None,
    subscription: Annotated[str | None, typer.Option(help="Only records of this subscription's id")] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Print what goes by on a topic, from now on, until Ctrl-C.

    Example: distributary tail attempts --subscription acme

    Example: distributary tail dead --from-beginning --no-follow --json
    """
    if subscription is not None and topic not in _BY_SUBSCRIPTION:
        raise typer.BadParameter(f"only {', '.join(_BY_SUBSCRIPTION)} are by subscription", param_hint="--subscription")
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)

    async def main(stop: asyncio.Event) -> None:
        reading = asyncio.ensure_future(_print(settings, topic, from_beginning, follow, limit, subscription, as_json))
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((reading, stopped), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
        finally:
            reading.cancel()
            stopped.cancel()
            await asyncio.gather(reading, stopped, return_exceptions=True)

    run(main, graceful=True)


async def _print(
    settings: Settings,
    name: Name,
    from_beginning: bool,
    follow: bool,
    limit: int | None,
    subscription: str | None,
    as_json: bool,
) -> None:
    topic = topic_of(settings.topics, name)
    async with (
        open_registry(settings) as registry,
        Reader(client_config(settings), [topic], from_beginning=from_beginning) as reader,
    ):
        values = Values(registry)
        if follow and not from_beginning:
            note(f"waiting for new records in {topic}; Ctrl-C ends it")
        printed = 0
        async with aclosing(reader.batches(follow=follow)) as batches:
            async for batch in batches:
                for message in batch:
                    if subscription is not None and message.key() != subscription.encode():
                        continue
                    document = await described(name, message, values)
                    emit(document) if as_json else say(*one_line(name, document))
                    printed += 1
                    if printed == limit:
                        return
    if not printed and watching.is_terminal:
        note(f"there is nothing in {topic}")


def topic_of(topics: Topics, name: Name) -> str:
    """The topic's full name."""
    full: str = getattr(topics, name)
    return full


async def described(name: Name, message: Message, values: Values) -> dict[str, Any]:
    """A record as JSON: where it stands, its key, and its value, or instead `error` when it cannot be decoded."""
    kind, timestamp_ms = message.timestamp()
    document: dict[str, Any] = {
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp": iso(timestamp_ms) if kind else None,
        "key": _text(message.key()),
    }
    headers = {each[0]: _text(each[1]) for each in message.headers() or ()}
    if name == "quarantine":
        return document | _quarantined(message, headers)
    if headers:
        document["headers"] = headers
    if name == "parked" and message.value() is None:
        return document | {"finished": _number(headers.get(FINISHED))}
    try:
        return document | {"value": await values.decode(message.value())}
    except (UndecodableError, UnknownSchemaError, ValueError) as error:
        return document | {"error": str(error), "size_bytes": len(message.value() or b"")}


def _quarantined(message: Message, headers: dict[str, str | None]) -> dict[str, Any]:
    if quarantine.REASON not in headers and message.value() is None:
        if quarantine.DISCARDED in headers:
            return {"discarded": _number(headers[quarantine.DISCARDED])}
        return {"resent": _number(headers.get(quarantine.RESENT))}
    return {
        "reason": headers.get(quarantine.REASON),
        "detail": headers.get(quarantine.DETAIL),
        "source": {
            "topic": headers.get(quarantine.SOURCE_TOPIC),
            "partition": _number(headers.get(quarantine.SOURCE_PARTITION)),
            "offset": _number(headers.get(quarantine.SOURCE_OFFSET)),
        },
        "size_bytes": len(message.value() or b""),
    }


def _text(raw: bytes | str | None) -> str | None:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


# --- for people -----------------------------------------------------------------------------------------------------


def one_line(name: Name, document: dict[str, Any]) -> tuple[str, str]:
    """(line, style)."""
    time = document["timestamp"] or "-"
    if "error" in document:
        place = f"{document['topic']}[{document['partition']}]@{document['offset']}"
        return f"{time}  {place} cannot be decoded: {document['error']}", "red"
    for mark in ("resent", "discarded"):
        if mark in document:
            return f"{time}  {mark}  {document['topic']}[{document['partition']}]@{document[mark]}", "dim"
    if "finished" in document:
        return f"{time}  {_marker(document)}", "dim"
    value = document if name == "quarantine" else document["value"]
    # Any Avro record may be an event, and anything may be written to a topic.
    ours = isinstance(value, dict) and _MARKS[name] <= value.keys()
    line, style = _LINES[name](value) if ours else (_foreign(document), "")
    return f"{time}  {line}", style


def _marker(document: dict[str, Any]) -> str:
    """Of a record in `deliveries.parked` that is no delivery: it finishes one, or is a worker's own mark."""
    if document["finished"] is None:
        return f"a worker's mark  {document['topic']}[{document['partition']}]@{document['offset']}"
    return f"finished  {document['topic']}[{document['partition']}]@{document['finished']} → {document['key']}"


def _foreign(document: dict[str, Any]) -> str:
    headers = document.get("headers", {})
    return f"{headers.get('ce_type', '?')}  {headers.get('ce_id', document['key'])}  {_compact(document['value'])}"


def _event(value: dict[str, Any]) -> tuple[str, str]:
    subject = f"  about {value['subject']}" if value.get("subject") else ""
    return f"{value['type']}  {value['id']}  of {value['tenant']}{subject}  {_compact(value['data'])}", ""


def _delivery(value: dict[str, Any]) -> tuple[str, str]:
    tried = f"  after {many(value['attempt'], 'attempt')}" if value["attempt"] else ""
    return f"{value['id']} → {value['subscription_id']}  {value['event_type']}  {value['event_id']}{tried}", ""


def attempt_line(time: str, value: dict[str, Any]) -> tuple[str, str]:
    """(line, style) of an attempt."""
    line, style = _attempt(value)
    return f"{time}  {line}", style


def _attempt(value: dict[str, Any]) -> tuple[str, str]:
    outcome = value["outcome"]
    came = value["status"] or value["cause"] or value["detail"] or "-"
    again = f"  again {iso(value['due_ms'])}" if value["due_ms"] else ""
    what = f"{value['delivery_id']} → {value['subscription_id']} #{value['attempt']}"
    line = f"{outcome:<9}  {what}  {came}  {value['duration_us'] / 1000:.0f} ms  {value['event_type']}{again}"
    return line, _STYLES.get(outcome, "")


def _dead(value: dict[str, Any]) -> tuple[str, str]:
    delivery = value["delivery"]
    detail = f"  {value['detail']}" if value["detail"] else ""
    line, _ = _delivery(delivery)
    return f"{value['reason']:<9}  {line}{detail}", "red"


def _put_aside(document: dict[str, Any]) -> tuple[str, str]:
    source = document["source"]
    place = f"{source['topic']}[{source['partition']}]@{source['offset']}"
    return f"{document['reason']}  {place}  {document['size_bytes']} bytes  {document['detail']}", "yellow"


def _operation(value: dict[str, Any]) -> tuple[str, str]:
    about = value["subscription_id"] or value.get("replay_id")  # a record of version 1 has none
    tenant = f"of {value['tenant']}" if value["tenant"] else ""
    counted = f"{value['count']} in all" if value.get("count") else ""
    parts = (f"{value['kind']:<17}", about, tenant, value["reason"], value["detail"], counted)
    return "  ".join(each for each in parts if each).rstrip(), _OPERATION_STYLES.get(value["kind"], "")


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


_LINES: dict[Name, Callable[[dict[str, Any]], tuple[str, str]]] = {
    "events": _event,
    "deliveries": _delivery,
    "parked": _delivery,
    "replay": _delivery,
    "attempts": _attempt,
    "dead": _dead,
    "quarantine": _put_aside,
    "operations": _operation,
}
_OF_A_DELIVERY = {"id", "subscription_id", "event_type", "event_id", "attempt"}
_MARKS: dict[Name, set[str]] = {
    "events": {"id", "type", "tenant", "data"},
    "deliveries": _OF_A_DELIVERY,
    "parked": _OF_A_DELIVERY,
    "replay": _OF_A_DELIVERY,
    "attempts": {"outcome", "delivery_id", "subscription_id", "attempt", "status", "cause", "due_ms", "duration_us"},
    "dead": {"reason", "detail", "delivery"},
    "quarantine": {"reason", "source"},
    "operations": {"kind", "subscription_id", "tenant", "at_ms", "reason", "detail"},
}
