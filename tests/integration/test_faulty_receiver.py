"""The faulty receiver does wrong what it is told to do wrong, and writes down the truth about it."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.control import Control, ControlError, helper
from connectors.faulty_receiver import (
    ACCEPTED,
    BROKEN,
    FLAPS,
    REFUSED,
    SILENT,
    FaultyEndpoint,
    Posted,
    digest,
    read_posts,
)
from tests.helpers import eventually_async

KEY = bytes(range(24))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
OK, SLOW, FLAKY, FAILING, REJECTING, LATE = range(6)
ENDPOINTS = [
    FaultyEndpoint(SECRET, delay_ms=50),
    FaultyEndpoint(SECRET, "slow", delay_ms=50),
    FaultyEndpoint(SECRET, "flaky"),
    FaultyEndpoint(SECRET, "failing"),
    FaultyEndpoint(SECRET, "rejecting"),
    FaultyEndpoint(SECRET, "slow", delay_ms=600_000),
]


def request(body: bytes, webhook_id: str, key: bytes = KEY) -> bytes:
    signature = base64.b64encode(hmac.digest(key, f"{webhook_id}.17.".encode() + body, "sha256"))
    head = f"POST /x HTTP/1.1\r\nHost: h\r\nwebhook-id: {webhook_id}\r\nWebhook-Timestamp: 17\r\n".encode()
    head += b"webhook-signature: v1a,x v1,%b\r\ncontent-length: %d\r\n\r\n" % (signature, len(body))
    return head + body


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    await eventually_async(condition)


def single(number: int) -> bytes:
    return b'{"type":"order.created","data":{"n":%d,"pad":"x"}}' % number


class Receiver:
    def __init__(self, control: Control, ports: list[int], file: Path) -> None:
        self.control = control
        self.ports = ports
        self.file = file

    async def order(self, do: str, **more: Any) -> Any:
        return await self.control.ask({"do": do, **more})

    async def connect(self, endpoint: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.ports[endpoint])

    async def post(self, endpoint: int, number: int, body: bytes | None = None, webhook_id: str | None = None) -> bytes:
        """The status line of the answer, on a connection of its own; empty for a connection that ended without."""
        reader, writer = await self.connect(endpoint)
        try:
            writer.write(request(body or single(number), webhook_id or f"dlv_{number}"))
            return (await asyncio.wait_for(reader.readline(), 60)).strip()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    async def written(self) -> list[Posted]:
        await self.order("stats")
        return list(read_posts(self.file))

    async def fates(self) -> list[tuple[int, int]]:
        return [(each.number, each.fate) for each in await self.written()]


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    file, posts = tmp_path / "endpoints.json", tmp_path / "posts"
    file.write_bytes(msgspec.json.encode(ENDPOINTS))
    log = tmp_path / "receiver.log"
    async with helper("connectors.faulty_receiver", str(file), str(posts), log=log) as running:
        yield Receiver(running.control, running.said["ports"], posts)


async def test_each_behaviour_answers_as_it_says(receiver: Receiver) -> None:
    assert await receiver.post(OK, 1) == b"HTTP/1.1 204 Taken"
    assert await receiver.post(SLOW, 2) == b"HTTP/1.1 204 Taken"
    assert await receiver.post(FLAKY, 3) == b"HTTP/1.1 204 Taken"
    assert await receiver.post(FLAKY, 4) == b"HTTP/1.1 503 Once More"
    assert await receiver.post(FLAKY, 4) == b"HTTP/1.1 204 Taken"
    assert await receiver.post(FAILING, 5) == b"HTTP/1.1 500 Never"
    assert await receiver.post(REJECTING, 6) == b"HTTP/1.1 422 Not Wanted"
    written = await receiver.written()
    assert [(each.endpoint, each.number, each.fate) for each in written] == [
        (OK, 1, ACCEPTED),
        (SLOW, 2, ACCEPTED),
        (FLAKY, 3, ACCEPTED),
        (FLAKY, 4, REFUSED),
        (FLAKY, 4, ACCEPTED),
        (FAILING, 5, REFUSED),
        (REJECTING, 6, REFUSED),
    ]
    assert [each.digest for each in written] == [digest(f"dlv_{each.number}") for each in written]
    assert written[1].answered_after_ms >= 49  # clocks of milliseconds
    assert [each.arrived_ms for each in written] == sorted(each.arrived_ms for each in written)
    assert await receiver.order("stats") == {"posts": 7, "accepted": 4, "strange": 0, "unsigned": 0}


async def test_requests_on_one_connection_and_in_pieces(receiver: Receiver) -> None:
    reader, writer = await receiver.connect(OK)
    both = request(single(1), "dlv_1") + request(single(2), "dlv_2")
    for at in range(0, len(both), 50):
        writer.write(both[at : at + 50])
        await writer.drain()
    for _ in range(2):
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60) == b"HTTP/1.1 204 Taken\r\n\r\n"
    writer.close()
    assert await receiver.fates() == [(1, ACCEPTED), (2, ACCEPTED)]


async def test_a_batch_is_written_down_event_by_event(receiver: Receiver) -> None:
    events = [{"id": f"dlv_{n}", "type": "a", "data": {"n": n, "pad": ""}} for n in (7, 8, 9)]
    batch = {"batch_id": "bat_1", "event_count": 3, "events": events}
    assert await receiver.post(OK, 0, json.dumps(batch).encode(), "bat_1") == b"HTTP/1.1 204 Taken"
    assert [(each.number, each.digest) for each in await receiver.written()] == [
        (n, digest(f"dlv_{n}")) for n in (7, 8, 9)
    ]
    for wrong in (
        batch | {"event_count": 2},
        batch | {"batch_id": "bat_2"},
        batch | {"events": [], "event_count": 0},
        batch | {"events": [{"id": "dlv_7", "data": {}}], "event_count": 1},
    ):
        assert await receiver.post(OK, 0, json.dumps(wrong).encode(), "bat_1") == b"HTTP/1.1 400 Strange"
    assert await receiver.post(OK, 0, b'{"data":{"m":1}}', "dlv_1") == b"HTTP/1.1 400 Strange"
    assert await receiver.order("stats") == {"posts": 3, "accepted": 3, "strange": 5, "unsigned": 0}


async def test_a_bad_signature_is_refused(receiver: Receiver) -> None:
    reader, writer = await receiver.connect(OK)
    writer.write(request(single(1), "dlv_1", key=b"another"))
    assert await asyncio.wait_for(reader.readline(), 60) == b"HTTP/1.1 401 Unsigned\r\n"
    writer.close()
    assert await receiver.fates() == [(1, REFUSED)]
    assert (await receiver.order("stats"))["unsigned"] == 1


async def test_troubles_come_and_go(receiver: Receiver) -> None:
    for trouble, fate, answer in [
        ("reset", SILENT, b""),
        ("slow", ACCEPTED, b"HTTP/1.1 204 Taken"),
        ("lie_long", BROKEN, b"HTTP/1.1 200 OK"),
        ("lie_short", BROKEN, b"HTTP/1.1 200 OK"),
        ("lie_garbage", BROKEN, b"HTTP/1.1 200 OK"),
    ]:
        await receiver.order("trouble", endpoint=OK, trouble=trouble)
        assert await receiver.post(OK, 1) == answer, trouble
        assert await receiver.post(REJECTING, 2) == b"HTTP/1.1 422 Not Wanted", trouble  # nobody else's
        assert (await receiver.fates())[-2:] == [(1, fate), (2, REFUSED)], trouble
    await receiver.order("trouble", endpoint=OK, trouble="flap")
    answers = {await receiver.post(OK, 1) for _ in FLAPS}
    assert answers == {b"HTTP/1.1 " + flap.split(b"\r\n")[0] for flap in FLAPS}
    await receiver.order("well", endpoint=OK)
    assert await receiver.post(OK, 1) == b"HTTP/1.1 204 Taken"


@pytest.mark.parametrize(
    ("trouble", "length", "body"),
    [("lie_long", b"500", b"taken"), ("lie_short", b"2", b"taken, and more"), ("lie_garbage", b"a few", b"taken")],
)
async def test_lies_about_lengths(receiver: Receiver, trouble: str, length: bytes, body: bytes) -> None:
    await receiver.order("trouble", endpoint=OK, trouble=trouble)
    reader, writer = await receiver.connect(OK)
    writer.write(request(single(1), "dlv_1"))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    assert b"content-length: " + length + b"\r\n" in head
    assert await asyncio.wait_for(reader.readexactly(len(body)), 60) == body
    writer.close()


async def test_who_hangs_says_nothing_and_holds_on(receiver: Receiver) -> None:
    await receiver.order("trouble", endpoint=OK, trouble="hang")
    reader, writer = await receiver.connect(OK)
    writer.write(request(single(1), "dlv_1"))

    async def arrived() -> bool:
        return await receiver.fates() == [(1, SILENT)]

    await until(arrived)
    await receiver.order("well", endpoint=OK)
    assert await receiver.post(OK, 2) == b"HTTP/1.1 204 Taken"
    assert not reader.at_eof()  # the first one still waits
    writer.close()


async def test_who_is_away_refuses_and_comes_back_on_the_same_port(receiver: Receiver) -> None:
    _, writer = await receiver.connect(OK)
    for _ in range(3):
        await receiver.order("trouble", endpoint=OK, trouble="away")

        async def refused() -> bool:
            try:
                _, late = await receiver.connect(OK)
            except ConnectionRefusedError:
                return True
            except ConnectionError:  # it was in the backlog
                return False
            late.close()
            return False

        await until(refused)
        await receiver.order("well", endpoint=OK)

        async def back() -> bool:
            try:
                return await receiver.post(OK, 1) == b"HTTP/1.1 204 Taken"
            except ConnectionError:
                return False

        await until(back)
    writer.close()


async def test_a_cut_ends_every_connection_and_what_was_not_answered_stays_so(receiver: Receiver) -> None:
    idle, _ = await receiver.connect(OK), await receiver.post(OK, 1)
    reader, writer = await receiver.connect(LATE)
    writer.write(request(single(2), "dlv_2"))
    await asyncio.sleep(0)
    assert await receiver.order("cut") >= 2
    for each in (idle[0], reader):
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(each.readexactly(1), 60)
    for each_writer in (idle[1], writer):
        each_writer.close()
    assert await receiver.post(OK, 3) == b"HTTP/1.1 204 Taken"
    fates = await receiver.fates()
    assert (1, ACCEPTED) in fates
    assert (2, ACCEPTED) not in fates


async def test_orders_that_make_no_sense_are_refused(receiver: Receiver) -> None:
    orders: list[tuple[dict[str, Any], str]] = [
        ({"do": "dance"}, "'dance' is no order"),
        ({"do": "trouble", "endpoint": 9, "trouble": "hang"}, "endpoints are 0 to 5"),
        ({"do": "trouble", "endpoint": 0, "trouble": "gout"}, "ValidationError"),
        ({"do": "well"}, "KeyError"),
    ]
    for order, why in orders:
        with pytest.raises(ControlError, match=why):
            await receiver.control.ask(order)
