"""The wide line of an attempt: what it says, what it never says, and that nothing is said where it is off."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from schemas.post import PostResult
from streams.attempt_log import LoggedRecords
from streams.records import Records
from tests.unit.stages import TOPICS, subscription
from tests.unit.test_dispatch import OK, RECEIVED_MS, REFUSED, SCHEMAS, Stage, fresh

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.name == "distributary.attempts"]  # type: ignore[attr-defined]


def logging_stage(endpoint: Any) -> Stage:
    stage = Stage(endpoint)
    stage.stage._records = LoggedRecords(TOPICS, SCHEMAS, stage.table, "w1")
    return stage


async def test_every_attempt_and_every_end_has_its_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "distributary.attempts")
    answers = iter([OK, REFUSED, PostResult(400, 2_000, excerpt=b"the body says secret")])
    stage = logging_stage(lambda posted: next(answers))
    async with stage.running():
        stage.table.put(
            subscription(
                "sub_1",
                url="https://a.example/hook?token=secret",
                headers={"x-key": "secret"},
                reject_statuses=(400,),
            )
        )
        await stage.admit(fresh(1, traceparent=TRACE))
        await stage.settled()
        for number in (2, 3):
            await stage.admit(fresh(number))
            await stage.settled()
        await stage.admit(fresh(4, "sub_gone"))
        await stage.settled()
    delivered, again, rejected, cancelled = logged(caplog)
    started_ms = stage.attempts()[0]["started_ms"]
    assert delivered == {
        "outcome": "delivered",
        "delivery_id": stage.attempts()[0]["delivery_id"],
        "event_id": "evt_1",
        "event_type": "order.created",
        "subscription_id": "sub_1",
        "tenant": "default",
        "worker": "w1",
        "url": "https://a.example/hook",
        "waited_ms": started_ms - RECEIVED_MS,
        "body_bytes": len(b'{"n":1}'),
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": "b7ad6b7169203331",
        "replay_id": "",
        "attempt": 1,
        "status": 204,
        "cause": "",
        "detail": "",
        "duration_ms": 1.5,
        "started_ms": started_ms,
        "due_ms": 0,
    }
    assert (again["outcome"], again["cause"], again["due_ms"] > 0) == ("retryable", "connect_failed", True)
    assert (rejected["outcome"], rejected["status"]) == ("rejected", 400)
    assert (cancelled["outcome"], cancelled["url"]) == ("cancelled", "")
    assert [each["outcome"] for each in stage.attempts()] == [each["outcome"] for each in logged(caplog)]
    assert "secret" not in caplog.text + str(logged(caplog))
    assert caplog.records[1].getMessage().endswith(" sub_1 #1 connect_failed")


async def test_nothing_is_said_where_it_is_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "distributary.attempts")
    stage = Stage()
    assert type(stage.stage._records) is Records
    async with stage.running():
        stage.table.put(subscription("sub_1"))
        await stage.admit(fresh())
        await stage.settled()
    assert len(stage.attempts()) == 1
    assert logged(caplog) == []
