"""What `distributary listen` prints of an event for programs, and what it forwards."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

from schemas.event import Event
from streams.cli.forwarding import Forwarder, ForwardFormat
from streams.cli.listen import document
from streams.cli.output import emit
from streams.new_secrets import new_secret


def test_an_event_is_one_line_however_its_data_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    data = b'{\r\n  "text": "a\\nb",\n  "sum": 1.10\n}'
    emit(document(Event("e1", "order.created", "acme", 1_700_000_000_000, data)))
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "\r" not in printed
    assert json.loads(printed)["data"] == json.loads(data)
    assert '"sum": 1.10' in printed  # to the last digit


@pytest.mark.parametrize(
    ("payload_format", "content_type", "told"),
    [
        ("standard", "application/json", {"type": "order.created", "data": {"n": 1}}),
        ("data", "application/json", {"n": 1}),
        ("thin", "application/json", {"data": {"id": "e1", "subject": "o/1"}}),
        ("cloudevents_binary", "application/json", {"n": 1}),
        ("cloudevents_structured", "application/cloudevents+json; charset=UTF-8", {"specversion": "1.0", "id": "e1"}),
    ],
)
async def test_an_event_is_forwarded_in_the_format_that_is_asked_for(
    payload_format: ForwardFormat, content_type: str, told: dict[str, object]
) -> None:
    secret = new_secret()
    got: list[tuple[dict[str, str], bytes]] = []

    async def take(request: web.Request) -> web.Response:
        got.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/hook", take)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    event = Event("e1", "order.created", "acme", 1_700_000_000_000, b'{"n": 1}', "o/1", trace, None, "a=1")
    async with (
        TestServer(app, host="127.0.0.1") as server,
        Forwarder(str(server.make_url("/hook")), secret, payload_format) as forwarder,
    ):
        answer = await forwarder.post(event)
    assert (answer.status, answer.cause) == (204, None)
    ((headers, body),) = got
    Webhook(secret).verify(body, headers)
    assert headers["content-type"] == content_type
    assert (headers["traceparent"], headers["tracestate"]) == (trace, "a=1")
    assert headers.get("ce-id") == ("e1" if payload_format == "cloudevents_binary" else None)
    document = json.loads(body)
    assert {name: document[name] for name in told} == told
