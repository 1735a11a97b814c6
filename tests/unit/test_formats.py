"""Payload formats: what a receiver reads. CloudEvents are read by the CNCF's own library."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import put_string
from schemas.delivery import encode_tail
from schemas.event import Event
from schemas.subscription import PayloadFormat
from streams.core.formats import CLOUDEVENT, CLOUDEVENTS_BATCH, Rendered, render, rfc3339, source_of

DATA = b'{"total":12.50}'
FORMATS: tuple[PayloadFormat, ...] = (
    *("standard", "data", "thin", "avro"),
    *("cloudevents_binary", "cloudevents_structured", "cloudevents_batch"),
)


def event(data: bytes = DATA, **fields: Any) -> Event:
    return Event("evt_1", "order.created", "acme", 1_700_000_000_123, data, **fields)


def test_standard_webhooks_body() -> None:
    sent = render(event(), "standard", b'{"total":12.50}', b"")
    assert (sent.content_type, sent.headers) == ("application/json", ())
    assert orjson.loads(sent.body) == {
        "type": "order.created",
        "timestamp": "2023-11-14T22:13:20.123Z",
        "data": {"total": 12.5},
    }


def test_numbers_keep_every_digit() -> None:
    exact = b'{"big":123456789012345678901234567890,"small":0.1000}'
    assert exact in render(event(), "standard", exact, b"").body


def test_data_alone() -> None:
    assert render(event(), "data", b"[1]", b"") == Rendered("application/json", b"[1]")


def test_thin_has_ids_alone() -> None:
    assert orjson.loads(render(event(), "thin", b"", b"", 3).body)["data"] == {"id": "evt_1"}
    thin = render(event(subject='o/"7"'), "thin", b"", b"", 3)
    assert orjson.loads(thin.body) == {
        "type": "order.created",
        "timestamp": "2023-11-14T22:13:20.123Z",
        "data": {"id": "evt_1", "subject": 'o/"7"'},
    }
    assert thin.headers == ()  # no data, so no version


def test_avro_is_the_framed_value() -> None:
    assert render(event(), "avro", b"", b"\0abc", 2) == ("application/avro", b"\0abc", (("webhook-version", "2"),))


# --- CloudEvents ----------------------------------------------------------------------------------------------------


def by_the_cncf(sent: Rendered) -> list[BaseCloudEvent]:
    """What their library reads in a request: it checks what attributes there must be, their names and types."""
    bodies = [sent.body]
    if sent.content_type == CLOUDEVENTS_BATCH:  # which it does not read: the elements of the array are JSON events
        bodies = [orjson.dumps(one) for one in orjson.loads(sent.body)]
    headers = {"content-type": sent.content_type, **dict(sent.headers)}
    if sent.content_type in (CLOUDEVENT, CLOUDEVENTS_BATCH):
        headers = {"content-type": "application/cloudevents+json"}
    return [from_http_event(HTTPMessage(headers, body), JSONFormat()) for body in bodies]


CLOUD_FORMATS: list[PayloadFormat] = ["cloudevents_binary", "cloudevents_structured", "cloudevents_batch"]
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)


@pytest.mark.parametrize("payload_format", CLOUD_FORMATS)
@given(texts, texts, st.none() | texts, st.integers(0, 3), st.integers(0, 253_402_300_799_999))
def test_a_cloud_event_is_what_the_cncf_reads(
    payload_format: PayloadFormat, event_id: str, source: str, subject: str | None, version: int, time_ms: int
) -> None:
    made = Event(event_id, "order.created", "acme", time_ms, DATA, subject, "00-1-2-01", source)
    (read,) = by_the_cncf(render(made, payload_format, DATA, b"", version))
    assert (read.get_id(), read.get_source(), read.get_type(), read.get_subject()) == (
        event_id,
        source,
        "order.created",
        subject,
    )
    assert read.get_specversion() == "1.0"
    time = read.get_time()
    assert time is not None
    assert rfc3339(round(time.timestamp() * 1000)) == rfc3339(time_ms)
    assert read.get_datacontenttype() == "application/json"
    assert read.get_data() == {"total": 12.5}
    extensions = {name: read.get_extension(name) for name in ("tenant", "traceparent", "dataversion")}
    assert extensions == {
        "tenant": "acme",
        "traceparent": "00-1-2-01",
        "dataversion": str(version) if version else None,
    }


def test_what_a_header_cannot_hold_is_percent_encoded() -> None:
    """The examples of the HTTP protocol binding, section 3.1.3.2, and what is next to its bounds."""
    sent = render(event(subject="Euro € 😀", source='a"b%c!~\t'), "cloudevents_binary", DATA, b"")
    headers = dict(sent.headers)
    assert headers["ce-subject"] == "Euro%20%E2%82%AC%20%F0%9F%98%80"
    assert headers["ce-source"] == "a%22b%25c!~%09"
    assert all(value.isascii() and value.isprintable() and " " not in value for value in headers.values())


def test_the_data_of_a_binary_event_is_the_body() -> None:
    sent = render(event(), "cloudevents_binary", b"[1]", b"", 0, "application/vnd.acme+json")
    assert (sent.content_type, sent.body) == ("application/vnd.acme+json", b"[1]")
    (read,) = by_the_cncf(sent)
    assert read.get_datacontenttype() == "application/vnd.acme+json"


def test_a_structured_event_keeps_every_digit() -> None:
    exact = b'{"big":123456789012345678901234567890,"small":0.1000}'
    for payload_format in CLOUD_FORMATS:
        assert exact in render(event(), payload_format, exact, b"").body


def test_an_event_without_a_source_has_one() -> None:
    assert source_of(event()) == source_of(event(source="")) == "/distributary/acme"
    assert source_of(event(source="/shop")) == "/shop"


def test_an_empty_subject_is_none() -> None:
    assert "ce-subject" not in dict(render(event(subject=""), "cloudevents_binary", DATA, b"").headers)


# --- versions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload_format", [each for each in FORMATS if each != "thin"])
def test_versioned_data_says_its_version(payload_format: PayloadFormat) -> None:
    assert dict(render(event(), payload_format, DATA, b"\0", 12).headers)["webhook-version"] == "12"
    assert "webhook-version" not in dict(render(event(), payload_format, DATA, b"\0", 0).headers)


def test_the_content_type_has_the_version_where_there_is_one() -> None:
    asked = "application/vnd.acme.v{version}+json; v={version}"
    for payload_format in ("standard", "data", "cloudevents_binary"):
        sent = render(event(), payload_format, DATA, b"", 2, asked)
        assert sent.content_type == "application/vnd.acme.v2+json; v=2"
        sent = render(event(), payload_format, DATA, b"", 0, asked)
        assert sent.content_type == "application/json"
    assert (
        render(event(), "data", DATA, b"", 0, "application/vnd.acme+json").content_type == "application/vnd.acme+json"
    )


# --- times ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times(time_ms: int, text: str) -> None:
    assert rfc3339(time_ms) == text


@pytest.mark.parametrize("payload_format", ["standard", "data", "thin", "avro", "cloudevents_binary"])
def test_a_tracestate_goes_on_as_a_header(payload_format: PayloadFormat) -> None:
    event = Event("e", "a.b", "t", 0, b"1", traceparent="00-1-2-01", tracestate="rojo=1,congo=2", hop="00-1-3-01")
    headers = dict(render(event, payload_format, b"1", b"", 3).headers)
    assert headers["tracestate"] == "rojo=1,congo=2"
    assert ("webhook-version" in headers) is (payload_format != "thin")


def test_cloud_events_tell_where_the_event_came_from_not_our_own_hop() -> None:
    """Their extension for distributed tracing: "MUST carry trace information of the starting trace"."""
    event = Event("e", "a.b", "t", 0, b"1", traceparent="00-1-2-01", tracestate="rojo=1", hop="00-1-3-01")
    rendered = render(event, "cloudevents_structured", b"1", b"")
    body = orjson.loads(rendered.body)
    assert (body["traceparent"], body["tracestate"]) == ("00-1-2-01", "rojo=1")
    tail = encode_tail(event, 0, rendered.content_type, rendered.body)
    assert b"00-1-3-01" in tail
    assert tail.startswith(b"\x02" + put_string("00-1-3-01"))
