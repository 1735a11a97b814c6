"""A day's incident: of fifty endpoints one is down for the whole retry schedule; its dead letters are looked at, it
recovers, and a replay at a capped rate brings every missing event exactly once, while live traffic never stops.

How long live deliveries took meanwhile is no test's matter but a figure: `make bench BENCH=incident_p99`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bench.incident import ENDPOINTS, Command, Size, incident
from bench.world import World
from connectors.local_kafka import Cluster
from schemas.ids import delivery_id
from tests.cli import Cli
from tests.integration.workers import until

SIZE = Size(rate=10, before_s=1.0, missing=20, schedule_ms=(1_000, 1_000), replay_rate=20.0)


@pytest.mark.timeout(300)
def test_a_replay_brings_every_missing_event_exactly_once_while_others_are_served(
    kafka: Cluster, tmp_path: Path
) -> None:
    def command(world: World) -> Command:
        settings = {"bootstrap": world.bootstrap, "prefix": world.topics.prefix}
        return Cli(tmp_path, settings).lines

    with incident(kafka.bootstrap, SIZE, command) as played:
        told = played.play()
        everybody = [told.down, *told.others]
        wanted = {delivery_id(each, target) for each in told.sent for target in everybody}
        until(lambda: played.delivered().keys() >= wanted, "all is settled")
        settled = played.delivered()

    # Everybody got every event exactly once, the one that was down too. (A worker that is starved for longer than its
    # session lasts may POST again what it had not settled, so Kafka's books are asked how often.)
    assert len(everybody) == ENDPOINTS
    assert settled == Counter(wanted)
    assert {post.id for post in told.posts if post.status == 204} == wanted
    assert {post.path for post in told.posts if post.status != 204} == {"/down"}

    # Its dead letters are what it missed: each with all its attempts.
    assert len(told.missing) >= SIZE.missing
    assert Counter(letter["delivery_id"] for letter in told.letters) == Counter(told.missing)
    for letter in told.letters:
        assert (letter["reason"], letter["state"], letter["status"]) == ("exhausted", "open", 503)
        assert letter["attempts"] == len(SIZE.schedule_ms) + 1
    assert {letter["id"]: letter["state"] for letter in told.letters_after} == {
        letter["id"]: "retried" for letter in told.letters
    }

    # The replay sent these and nothing else, marked, no faster than it may: half a second's worth at a time.
    replay = told.replay
    assert (replay["state"], replay["sent"], replay["skipped"]) == ("done", len(told.missing), 0)
    marked = [post for post in told.posts if post.replay]
    assert {post.replay for post in marked} == {replay["id"]}
    assert {post.id for post in marked} == told.missing
    assert not told.missing & {post.id for post in told.posts if post.status == 204 and not post.replay}
    span_s = (told.written_ms[-1] - told.written_ms[0]) / 1_000
    assert len(told.written_ms) == len(told.missing)
    assert span_s >= len(told.missing) / SIZE.replay_rate - 0.6
