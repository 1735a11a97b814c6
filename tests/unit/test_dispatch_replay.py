"""The replay lane: what is sent again goes last, in room of its own, marked, and like any other delivery otherwise."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import orjson
import pytest

from schemas.delivery import REPLAY_HEADER, decode_delivery, replay_of
from schemas.post import PostResult
from streams.core.breaker import NEVER, BreakerPolicy
from streams.settings import Settings
from streams.worker_metrics import WorkerMetrics
from tests.unit.dispatch_town import Post, Town, fresh, id_of, ok, status
from tests.unit.stages import TOPICS, subscription
from tests.unit.virtual import passing, until, virtual

REFUSED = PostResult(0, 1, "connect_failed")
NO_CIRCUIT = BreakerPolicy(requests_min=NEVER)
#: As in the order's own tests: an endpoint that fails often takes everything in the end.
SCHEDULE_MS = (1_000, 2_000, *(4_000,) * 40)


def again(*numbers: int, to: str = "sub_1", replay: str = "rpl_1", **event: Any) -> list[bytes]:
    return [fresh(number, to, replay=replay, **event) for number in numbers]


def hanging(*names: str) -> Town:
    """These endpoints never answer."""
    return Town(lambda post: None if any(name in post.url for name in names) else ok(post))


def under_way(town: Town, posts: list[Post], took_s: float) -> int:
    """The most of these POSTs that were under way at a time."""
    return max(sum(post.at_s <= one.at_s < post.at_s + took_s for post in posts) for one in posts)


@virtual
async def test_the_marker_is_sent_at_every_attempt_wherever_the_delivery_waited() -> None:
    """At once, after a retry tier, from the log, and in the dead letter; the id is that of the first time."""
    answers = iter([503, 204, 500, 500, 500])
    town = Town(lambda post: status(next(answers)))
    town.table.put(subscription(retry_schedule_ms=(1_000, 2_000)))
    town.table.put(subscription("idle", state="paused"))
    await town.worker([0], circuit=NO_CIRCUIT)
    town.replay(*again(1))
    await until(lambda: len(town.posts) == 2)
    town.replay(*again(2, replay="rpl_2"), *again(3, to="idle"))
    await until(lambda: len(town.dead()) == 1 and len(town.parked()) == 1, 60)
    answers = iter([204])
    town.table.put(subscription("idle"))
    await town.done()
    said = [(post.headers["webhook-id"], post.headers[REPLAY_HEADER]) for post in town.posts]
    assert said == [(id_of(1), "rpl_1")] * 2 + [(id_of(2), "rpl_2")] * 3 + [(id_of(3, "idle"), "rpl_1")]
    (letter,) = town.dead()
    assert letter["delivery"]["headers"] == {REPLAY_HEADER: "rpl_2"}
    tried = [decode_delivery(one.value or b"", 2) for one in town.kafka.records[TOPICS.tiers[1_000]]]
    assert {replay_of(one) for one in tried} == {"rpl_1", "rpl_2"}


@virtual
async def test_a_live_delivery_goes_before_all_that_is_replayed() -> None:
    town = Town(lambda post: (0.1, PostResult(204, 100_000)))
    town.table.put(subscription(max_in_flight=1))
    await town.worker([0])
    town.replay(*again(*range(100)))
    await until(lambda: len(town.posts) == 3)
    town.send(fresh(1_000), fresh(1_001))
    await town.done()
    assert [post.headers["webhook-id"] for post in town.posts[3:5]] == [id_of(1_000), id_of(1_001)]
    assert set(town.delivered().values()) == {1}
    assert len(town.posts) == 102


@virtual
async def test_a_lane_that_is_never_empty_keeps_nobody_elses_replay() -> None:
    """What is replayed to it goes into the log when others need the room, and from there takes turns."""

    def endpoint(post: Post) -> tuple[float, PostResult]:
        return (0.1, PostResult(204, 100_000)) if "busy" in post.url else ok(post)

    town = Town(endpoint)
    town.table.put(subscription("busy", max_in_flight=1))
    town.table.put(subscription("well"))
    await town.worker([0], replayed_max=20)
    town.send(*(fresh(number, "busy") for number in range(50)))
    town.replay(*again(*range(1_000, 1_100), to="busy"), *again(*range(50), to="well"))
    for number in range(50, 150):
        await passing(0.09)
        town.send(fresh(number, "busy"))
    assert sum("well" in post.url for post in town.posts) == 50
    assert [post for post in town.posts if "busy" in post.url and REPLAY_HEADER in post.headers]
    await town.done()
    assert set(town.delivered().values()) == {1}
    assert len(town.delivered()) == 300


@virtual
async def test_a_lane_that_is_never_empty_sends_a_little_of_what_is_replayed() -> None:
    """One in sixteen, though nobody needs the room; and no more than that."""
    town = Town(lambda post: (0.1, PostResult(204, 100_000)))
    town.table.put(subscription(max_in_flight=1))
    await town.worker([0])
    town.send(*(fresh(number) for number in range(100)))
    await until(lambda: len(town.posts) == 1)
    town.replay(*again(*range(1_000, 1_050)))
    await until(lambda: len(town.posts) == 100)
    replayed = [number for number, post in enumerate(town.posts) if REPLAY_HEADER in post.headers]
    assert replayed == [16, 32, 48, 64, 80, 96]
    await town.done()
    assert set(town.delivered().values()) == {1}


@virtual
async def test_where_replays_have_no_places_left_live_deliveries_have_their_turn() -> None:
    """The one in sixteen is theirs only where the worker has places for replays."""
    town = Town(lambda post: None if REPLAY_HEADER in post.headers else (0.1, PostResult(204, 100_000)))
    for name in ("a", "b"):
        town.table.put(subscription(name, max_in_flight=2))
    await town.worker([0], in_flight_max=4)  # one of them for replays
    town.replay(*again(1, to="a"))
    await until(lambda: len(town.posts) == 1)
    town.replay(*again(2, to="b"))
    town.send(*(fresh(number, "b") for number in range(1_000, 1_040)))
    await until(lambda: len(town.posts) == 41, 10)
    assert sum(REPLAY_HEADER in post.headers for post in town.posts) == 1


def test_one_that_is_never_sent_does_not_fill_its_partitions_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few take no room, and so are not parked; but what is behind them could not be committed for ever."""
    monkeypatch.setattr("streams.core.ledger.SPAN_MAX", 600)
    monkeypatch.setattr("streams.core.ledger.PENDING_MAX", 600)

    def endpoint(post: Post) -> tuple[float, PostResult]:
        return (0.1, PostResult(204, 100_000)) if "busy" in post.url else ok(post)

    @virtual
    async def run() -> None:
        town = Town(endpoint)
        town.table.put(subscription("busy", max_in_flight=1))
        town.table.put(subscription("well", max_in_flight=32))
        worker = await town.worker([0])
        town.send(*(fresh(number, "busy") for number in range(100)))
        await until(lambda: len(town.posts) == 1)
        town.replay(*again(1_000, 1_001, to="busy"), *again(*range(2_000), to="well"))
        await until(lambda: sum("well" in post.url for post in town.posts) == 2_000, 5)
        assert worker.counters["parked"] == 2
        await town.done()
        assert set(town.delivered().values()) == {1}

    run()


@virtual
async def test_a_share_of_the_places_is_kept_from_what_is_replayed() -> None:
    """Of the endpoint's, as from retries; and of the worker's, whoever it is replayed to."""
    town = Town(lambda post: (1.0, PostResult(204, 1_000_000)))
    names = [f"e{number}" for number in range(8)]
    for name in names:
        town.table.put(subscription(name, max_in_flight=8))
    await town.worker([0], in_flight_max=32)
    town.replay(*again(*range(20), to="e0"))
    await until(lambda: len(town.posts) == 6, 0.5)
    town.send(fresh(1_000, "e0"))
    await until(lambda: len(town.posts) == 7, 0.1)
    for name in names[1:]:
        town.replay(*again(*range(5), to=name))
    await passing(0.1)
    for name in names:
        town.send(fresh(2_000, name))
    await until(lambda: sum(REPLAY_HEADER not in post.headers for post in town.posts) == 9, 0.2)
    await town.done()
    replayed = [post for post in town.posts if REPLAY_HEADER in post.headers]
    assert len(replayed) == 20 + 7 * 5
    assert under_way(town, [post for post in replayed if "e0" in post.url], 0.999) == 6
    assert under_way(town, replayed, 0.999) == 8


@pytest.mark.parametrize("fields", [{}, {"ordered": True}, {"rate_limit": 1.0}, {"batch_max": 5}], ids=str)
def test_what_is_replayed_to_an_endpoint_that_hangs_holds_up_nobody(fields: dict[str, Any]) -> None:
    @virtual
    async def run() -> None:
        town = hanging("stuck")
        town.table.put(subscription("stuck", max_in_flight=4, retry_schedule_ms=(1_000,), timeout_ms=30_000, **fields))
        town.table.put(subscription("well"))
        worker = await town.worker([0], replayed_max=20, circuit=NO_CIRCUIT)
        town.replay(*again(*range(400), to="stuck"))
        town.replay(*again(*range(5), to="well"))
        for number in range(100, 150):
            town.send(fresh(number, "well"))
            await passing(0.02)
            assert town.delivered()[id_of(number, "well")] == 1  # at once, whatever is replayed
        assert worker.counters["parked"]  # what does not fit
        await until(lambda: sum("well" in post.url for post in town.posts) == 55, 300)
        assert worker.stage.in_flight <= 4

    run()


@virtual
async def test_large_bodies_have_a_room_of_their_own_too() -> None:
    town = hanging("stuck")
    town.table.put(subscription("stuck", timeout_ms=30_000, max_in_flight=2))
    town.table.put(subscription("well"))
    await town.worker([0], replayed_bytes_max=50_000, circuit=NO_CIRCUIT)
    town.replay(*again(*range(60), to="stuck", body=b"x" * 10_000))
    town.replay(*again(1, 2, to="well"))
    await passing(0.1)
    assert len(town.parked()) == 0
    town.send(fresh(100, "well"))
    await until(lambda: town.delivered()[id_of(100, "well")] == 1, 0.1)
    await until(lambda: town.delivered()[id_of(2, "well")] == 1, 20)
    assert len(town.parked()) > 40


@virtual
async def test_a_lane_that_does_not_keep_up_gets_none_of_it() -> None:
    """The room is for its live deliveries; what is replayed comes back from the log when that is served."""
    town = Town(lambda post: (0.5, PostResult(204, 500_000)))
    town.table.put(subscription(max_in_flight=2))
    worker = await town.worker([0], admitted_max=40)
    town.send(*(fresh(number) for number in range(120)))
    await passing(2)
    parked = worker.counters["parked"]
    assert parked
    town.replay(*again(*range(1_000, 1_010)))
    await until(lambda: worker.counters["parked"] >= parked + 10, 5)
    await town.done(3_600)
    assert set(town.delivered().values()) == {1}
    assert len(town.delivered()) == 130


@virtual
async def test_what_waits_is_shown_and_is_not_the_oldest_undelivered() -> None:
    town = hanging("sub-1")
    town.table.put(subscription(max_in_flight=1))
    worker = await town.worker([0])
    metrics = WorkerMetrics(Settings(), worker.counters, town.clock)
    metrics.dispatch = worker.stage
    town.replay(*again(1, 2, 3))
    await until(lambda: len(town.posts) == 1)

    def shown(name: str) -> dict[tuple[str, ...], object]:
        return {labels: value for sample, labels, value in metrics.samples() if sample == name}

    assert shown("distributary_waiting_deliveries")["replay",] == 2
    assert shown("distributary_oldest_undelivered_seconds") == {}
    town.send(fresh(4))
    await until(lambda: shown("distributary_waiting_deliveries")["fresh",] == 1)
    assert shown("distributary_oldest_undelivered_seconds").keys() == {("sub_1",)}


@virtual
async def test_what_cannot_be_read_goes_to_quarantine_and_takes_no_room() -> None:
    town = Town()
    town.table.put(subscription())
    await town.worker([0], replayed_max=4)
    town.replay(*[b"nonsense"] * 10, *again(1))
    bad = fresh(2, replay="two words")
    town.replay(bad)
    await until(lambda: town.delivered()[id_of(1)] == 1)
    await until(lambda: len(town.kafka.records[TOPICS.quarantine]) == 11)
    with pytest.raises(Exception, match="webhook-replay is not the id of a replay"):
        decode_delivery(bad, 2)


@virtual
async def test_a_batch_is_of_one_replay_or_of_none() -> None:
    town = Town()
    town.table.put(subscription(batch_max=4, batch_wait_ms=1_000, max_in_flight=1))
    await town.worker([0])
    town.replay(*again(1, 2, body=b"{}"), *again(3, 4, replay="rpl_2", body=b"{}"))
    town.send(fresh(5, body=b"{}"), fresh(6, body=b"{}"))
    await town.done()
    sent = [
        (post.headers.get(REPLAY_HEADER), [one["id"] for one in orjson.loads(post.body)["events"]])
        for post in town.posts
    ]
    assert sorted(sent, key=str) == [
        ("rpl_1", [id_of(1), id_of(2)]),
        ("rpl_2", [id_of(3), id_of(4)]),
        (None, [id_of(5), id_of(6)]),
    ]


@virtual
async def test_what_is_gone_or_disabled_ends_as_ever() -> None:
    town = Town()
    town.table.put(subscription("off", state="disabled"))
    await town.worker([0])
    town.replay(*again(1, to="nobody"), *again(2, to="off"))
    await town.done()
    assert sorted(one["outcome"] for one in town.attempts()) == ["cancelled", "rejected"]
    assert [letter["reason"] for letter in town.dead()] == ["disabled"]


@virtual
async def test_a_worker_that_gives_up_its_partitions_hands_the_rest_on() -> None:
    town = Town(lambda post: (0.05, PostResult(204, 50_000)))
    town.table.put(subscription(max_in_flight=2))
    first = await town.worker([0], replayed_max=50)
    town.replay(*again(*range(300)))
    await until(lambda: len(town.posts) > 60)
    await first.give_up([0], 5.0)
    await town.worker([0], replayed_max=50)
    await town.done()
    assert town.delivered() == Counter({id_of(number): 1 for number in range(300)})


@pytest.mark.parametrize("seed", range(16))
def test_a_replay_has_an_order_of_its_own(seed: int) -> None:
    """Of each key, what is replayed comes in the replay's order and what is live in its own, through failures, crashes
    and relief; and neither waits for the other: two POSTs of a key may be under way, one of each."""

    @virtual
    async def run() -> None:
        dice = random.Random(f"replayed order {seed}")

        def endpoint(post: Post) -> tuple[float, PostResult] | None:
            if dice.random() < 0.3:
                what = dice.choice((500, 503, 429, 404, 0))
                return status(what, retry_after=dice.choice((None, "1"))) if what else None
            return dice.uniform(0.001, 0.2), PostResult(200, 1_000)

        town = Town(endpoint)
        town.lag_s = lambda topic: dice.choice((0.0, 0.05, dice.uniform(0, 1)))
        town.table.put(
            subscription(
                ordered=True, max_in_flight=dice.randint(1, 8), timeout_ms=3_000, retry_schedule_ms=SCHEDULE_MS
            )
        )
        bounds: dict[str, Any] = {
            "replayed_max": dice.choice((3, 20, 1_000)),
            "admitted_max": dice.choice((10, 4_000)),
            "relief_after_s": 0.1,
        }
        worker = await town.worker([0], **bounds)
        keys: dict[str, tuple[str, str]] = {}  # by id: key, and live or which replay's
        for _ in range(dice.randint(4, 12)):
            for _ in range(dice.randint(1, 30)):
                number, key = len(keys), dice.choice("abc")
                replay = dice.choice(("", "rpl_1"))
                keys[id_of(number)] = (key, replay)
                (town.replay if replay else town.send)(fresh(number, replay=replay, subject=key))
            await passing(dice.uniform(0, 3))
            match dice.choice(("nothing", "kill", "give up", "lose")):
                case "kill":
                    worker.kill()
                    worker = await town.worker([0], **bounds)
                case "give up":
                    await worker.give_up([0], 5.0)
                    worker.assign([0])
                case "lose":
                    worker.lose([0])
                    worker.assign([0])
                case _:
                    pass
        await town.done(7_200)
        ended = {one["event_id"] for one in town.attempts() if one["outcome"] != "retryable"}
        assert len(ended) == len(keys)
        lines: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for identifier, line in keys.items():
            lines[line].append(identifier)
        posted = town.posted()
        for of_a_key in lines.values():
            for earlier, later in pairwise(of_a_key):  # the first time a later one is sent, the earlier one is through
                taken = [post for post in posted[earlier] if town.answers.get(post.number, REFUSED).status == 200]
                assert (taken or posted[earlier])[0].at_s < posted[later][0].at_s

    run()
