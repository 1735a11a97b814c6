"""Operations on a real Kafka: an endpoint goes down, and the operator is told by webhooks, of each thing once."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from connectors.local_kafka import Cluster
from connectors.receiver import Endpoint, Post, Receiver
from tests.helpers import eventually_async
from tests.integration.workers import SECRET, Site

EVENTS = [f"evt_{number}" for number in range(12)]


async def test_the_operator_hears_of_an_endpoint_that_goes_down(kafka: Cluster, prefix: str, tmp_path: Path) -> None:
    site = await Site.made(kafka.bootstrap, prefix, operations_window_s=86_400, circuit_results_min=5, partitions=2)
    posts: list[Post] = []

    def told() -> list[tuple[str, dict[str, Any]]]:
        bodies = [orjson.loads(post.body) for post in posts if post.path == "/pager"]
        return [(body["type"], body["data"]) for body in bodies]

    def said(kind: str, subscription_id: str = "down") -> list[dict[str, Any]]:
        return [
            data for type_, data in told() if type_ == f"operation.{kind}" if data["subscription_id"] == subscription_id
        ]

    def dead(subscription_id: str) -> int:
        return sum(letter["delivery"]["subscription_id"] == subscription_id for letter in site.dead())

    endpoints = [Endpoint("/pager", secrets=(SECRET,)), Endpoint("/down", "dead"), Endpoint("/broken", "dead")]
    async with Receiver(endpoints, port=0, on_post=posts.append) as receiver:
        operator: dict[str, Any] = {"tenant": "operator", "retry_schedule_ms": ()}
        site.subscribe("pager", receiver.url("/pager"), event_types=("operation.*",), **operator)
        site.subscribe("broken", receiver.url("/broken"), event_types=("operation.circuit.*",), **operator)
        down: dict[str, Any] = {"url": receiver.url("/down"), "retry_schedule_ms": (), "max_in_flight": 1}
        site.subscribe("down", **down, disable_after_ms=0)  # not yet
        with site.worker_process("w", log=tmp_path / "worker.log") as worker:
            await asyncio.to_thread(worker.ready)
            site.send(EVENTS)
            site.write(site.topics.events, [(b"k", b"no event")] * 2, partition=1)

            def settled() -> bool:
                return dead("broken") == 1 and "pager" in {one["subscription_id"] for one in site.attempts()}

            await eventually_async(settled, timeout_s=60)
            worker.kill()
            site.subscribe("down", **down, disable_after_ms=1)
            assert dead("down") >= 5
        assert {type_ for type_, _ in told()} == {"operation.circuit.opened"}  # the day is not over
        # The next worker counts what the killed one has not told of, and tells of it.
        site.settings = site.settings.model_copy(update={"operations_window_s": 0.5, "worker_id": "w"})
        async with site.worker():

            async def all_told() -> bool:
                counted = sum(data["count"] for data in said("dead_letters.written"))
                grew = sum(data["count"] for data in said("quarantine.grew", ""))
                return bool(
                    said("endpoint.disabled")
                    and counted == dead("down")
                    and grew == 2
                    and Counter(type_ for type_, _ in told())
                    == Counter(f"operation.{one.kind}" for one in _others(site))
                )

            await eventually_async(all_told, timeout_s=90)
    assert Counter(type_ for type_, _ in told()) == Counter(f"operation.{one.kind}" for one in _others(site))
    (disabled,), (opened,) = said("endpoint.disabled"), said("circuit.opened")
    assert (disabled["reason"], disabled["tenant"]) == ("failing", "default")
    assert opened["at_ms"] <= disabled["at_ms"]
    lost = said("dead_letters.written")
    assert {data["reason"] for data in lost} <= {"exhausted", "disabled", ""}
    places = [range(data["first_offset"], data["last_offset"] + 1) for data in lost]
    assert all(a[-1] < b[0] for a, b in pairwise(places))  # none was counted twice
    # What happened to the operator's own endpoint is on the topic, and nobody was told.
    assert "dead_letters.written" in {one.kind for one in site.operations() if one.subscription_id == "broken"}
    assert {data["subscription_id"] for _, data in told()} == {"down", ""}
    stats = receiver.stats()["/pager"]
    assert (stats.posts, stats.invalid) == (len(told()), 0)
    assert stats.deliveries == stats.posts  # each once


def _others(site: Site) -> list[Any]:
    return [one for one in site.operations() if one.subscription_id != "broken"]
