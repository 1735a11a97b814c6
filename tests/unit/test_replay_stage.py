"""The stage of replays: what is counted is sent, each once, through pauses, crashes and zombies."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import msgspec
import pytest

from schemas.dead_letter import Filed, decode_dead_letter
from schemas.delivery import REPLAY_HEADER, facts_of
from schemas.errors import FencedError
from schemas.ids import delivery_id
from schemas.replay import Place
from schemas.subscription import Subscription
from streams import replay
from streams.core.dead import acts
from streams.replay import ReplayLimits
from tests.unit.replay_town import ReplayTown
from tests.unit.stages import TOPICS
from tests.unit.virtual import START_MS, passing, until, virtual

NAMES = tuple(f"evt_{number}" for number in range(60))


async def a_town(**limits: int) -> ReplayTown:
    """60 events in 4 partitions, with marks of transactions between them; two subscriptions of three want them."""
    town = ReplayTown(ReplayLimits(**({"deliveries_max": 5, "read_max": 10} | limits)))
    town.subscribe("sub_a")
    town.subscribe("sub_b", format="data", headers={"x": "y"})
    town.subscribe("sub_c", event_types=("invoice.*",))
    for number, name in enumerate(NAMES):
        await town.events(name, partition=number % 4)
        town.kafka.skip(TOPICS.events, number % 4)
    return town


def expected(*subscriptions: str, names: tuple[str, ...] = NAMES, replay: str = "rpl_1") -> dict[tuple[str, str], int]:
    return {(delivery_id(name, each), replay): 1 for name in names for each in subscriptions}


@virtual
async def test_events_are_matched_again_and_what_was_counted_is_sent() -> None:
    town = await a_town()
    town.order(event_ids=NAMES[:40])
    async with town.running():
        progress = await town.comes_to("done")
    assert town.names() == expected("sub_a", "sub_b", names=NAMES[:40])
    assert (progress.counted, progress.sent, progress.skipped, progress.read) == (80, 80, 0, 60)
    assert progress.counted_bytes == sum(len(each.value or b"") for each in town.kafka.records[TOPICS.replay])
    assert 0 < progress.started_ms <= progress.finished_ms
    (operation,) = town.operations()
    assert (operation.kind, operation.reason, operation.replay_id) == ("replay.finished", "done", "rpl_1")
    assert (operation.count, operation.tenant, operation.subscription_id) == (80, "", "")
    fresh = town.sent()[0]
    assert (fresh.attempt, fresh.tries, fresh.headers) == (0, (), ((REPLAY_HEADER, "rpl_1"),))
    assert town.counters["replay_sent"] == 80
    assert town.readers == 0


@virtual
async def test_of_the_subscriptions_of_now_the_chosen_ones_get_it() -> None:
    town = await a_town()
    await town.events("evt_other", event_type="invoice.paid")
    town.order(subscriptions=("sub_b", "sub_c", "sub_gone"))
    async with town.running():
        progress = await town.comes_to("done")
    assert town.names() == expected("sub_b") | expected("sub_c", names=("evt_other",))
    assert progress.sent == progress.counted == 61


@virtual
async def test_events_from_offsets_on_and_of_other_partitions_what_came_since_the_order() -> None:
    town = await a_town()  # partition 0 has evt_0, evt_4, ... at 0, 2, ...: fifteen of them
    town.kafka.remove(TOPICS.events, 1, 6)
    await passing(60)
    ordered_ms = town.clock.now_ms()
    await town.events("since", partition=3)
    starts = (Place(0, 5), Place(1, 1), Place(2, 30))
    town.order(subscriptions=("sub_a",), starts=starts, created_ms=ordered_ms)
    async with town.running():
        progress = await town.comes_to("done")
    wanted = (*NAMES[12::4], *NAMES[13::4], "since")
    assert town.names() == expected("sub_a", names=wanted)
    assert progress.counted == len(wanted)


@virtual
async def test_a_plan_is_counted_and_sends_nothing_until_it_is_wanted() -> None:
    town = await a_town()
    town.order(wanted="planned")
    async with town.running():
        progress = await town.comes_to("planned")
        assert (progress.counted, progress.sent, progress.read) == (120, 0, 0)
        await town.events("evt_late")  # behind the end that was fixed
        await passing(60)
        assert town.state() == "planned"
        assert not town.sent()
        assert town.readers == 0  # nobody reads
        town.orders.change("rpl_1", wanted="running")
        progress = await town.comes_to("done")
    assert town.names() == expected("sub_a", "sub_b")
    assert progress.sent == progress.counted


@virtual
async def test_its_own_output_and_that_of_others_is_not_read() -> None:
    town = ReplayTown()
    town.subscribe("sub_a")
    for name in NAMES[:20]:
        await town.died(name, "sub_a")
    town.order(source="dead")
    async with town.running():
        while town.state() != "done":
            await asyncio.sleep(0)
            if town.sent() and len(town.kafka.records[TOPICS.dead]) < 30:  # dies again, as before
                await town.died("evt_again", "sub_a", replay="rpl_1")
    assert town.names() == expected("sub_a", names=NAMES[:20])


@virtual
async def test_paused_resumed_and_cancelled() -> None:
    town = await a_town()
    town.order(rate_max=4.0)
    async with town.running():
        await town.comes_to("running")
        await passing(5)
        town.orders.change("rpl_1", wanted="paused")
        progress = await town.comes_to("paused")
        assert 10 <= progress.sent <= 30
        await passing(60)
        assert len(town.sent()) == progress.sent
        town.orders.change("rpl_1", wanted="running", rate_max=0.0)
        progress = await town.comes_to("done", seconds=5)
        assert town.names() == expected("sub_a", "sub_b")
        town.order("rpl_2", rate_max=2.0)
        await town.comes_to("running", "rpl_2")
        await passing(5)
        town.orders.change("rpl_2", wanted="cancelled")
        progress = await town.comes_to("cancelled", "rpl_2")
        assert 5 <= progress.sent < 30
        await passing(60)
        assert len(town.sent()) == 120 + progress.sent
        town.table_is_behind = True
        town.orders.change("rpl_2", wanted="running")  # nothing wakes what is over
        await passing(60)
    assert [(each.reason, each.count) for each in town.operations()] == [("done", 120), ("cancelled", progress.sent)]


@virtual
async def test_no_more_a_second_than_asked_for() -> None:
    town = await a_town()
    town.order(rate_max=6.0, event_ids=NAMES[:30])
    start = town.clock.monotonic()
    async with town.running():
        await town.comes_to("done")
    took = town.clock.monotonic() - start
    assert 60 / 6 - 1.5 <= took <= 60 / 6 + 1.5
    by_second = [0] * 12
    for stored in town.kafka.records[TOPICS.replay]:
        by_second[(stored.timestamp_ms - START_MS) // 1_000] += 1
    assert max(by_second) <= 6 + 3 + 2  # a turn more, of half a second's worth, and an event's


@virtual
async def test_deliveries_go_again_as_they_were() -> None:
    town = ReplayTown()
    town.subscribe("sub_a", event_types=("never.asked.for",))
    town.subscribe("sub_foreign", tenant="other")
    for number in range(8):
        await town.delivered(f"evt_{number}", "sub_a", partition=number % 4)
    await town.delivered("evt_8", "sub_a", replay="rpl_0")
    await town.delivered("evt_9", "sub_gone")
    await town.delivered("evt_10", "sub_foreign")
    town.kafka.write([(TOPICS.deliveries, b"k", b"no delivery", 0, None), (TOPICS.deliveries, b"k", None, 0, None)])
    town.order(source="deliveries")
    town.order("rpl_2", source="deliveries", replayed=True, subscriptions=("sub_a",), event_types=("order.*",))
    async with town.running():
        progress = await town.comes_to("done")
        again = await town.comes_to("done", "rpl_2")
    assert (progress.counted, progress.sent, progress.skipped, progress.read) == (8, 8, 3, 13)
    assert (again.sent, again.skipped) == (9, 0)
    names = tuple(f"evt_{number}" for number in range(9))
    assert town.names() == expected("sub_a", names=names[:8]) | expected("sub_a", names=names, replay="rpl_2")
    for stored in town.kafka.records[TOPICS.replay][:8]:
        assert stored.key == b"sub_a"
    sent = town.sent()[0]
    assert (sent.attempt, sent.due_ms, sent.first_attempt_ms, sent.tries) == (0, 0, 0, ())
    assert sent.headers == ((REPLAY_HEADER, "rpl_1"),)
    assert facts_of(sent).event_type == "order.created"
    partitions = {delivery_id(f"evt_{number}", "sub_a"): number % 4 for number in range(8)}
    found = zip(town.sent(), town.kafka.records[TOPICS.replay], strict=True)
    assert all(stored.partition == partitions.get(each.id, 0) for each, stored in found)


@virtual
async def test_dead_letters_are_chosen_by_why_and_where() -> None:
    town = ReplayTown()
    town.subscribe("sub_a")
    places = [await town.died(f"evt_{number}", "sub_a") for number in range(3)]
    await town.died("evt_timeout", "sub_a", status=0, cause="timeout")
    await town.died("evt_gone", "sub_a", "gone", status=410)
    await town.died("evt_again", "sub_a", replay="rpl_0")
    chosen = Place(places[1].partition, places[1].offset)
    town.order("rpl_where", source="dead", places=(chosen,))
    town.order("rpl_class", source="dead", error_classes=("timeout", "4xx"))
    town.order("rpl_reason", source="dead", reasons=("gone",), again=True)
    town.order("rpl_none", source="dead", subscriptions=("sub_b",))
    async with town.running():
        for name in ("rpl_where", "rpl_class", "rpl_reason", "rpl_none"):
            await town.comes_to("done", name)
    assert town.names() == {
        **expected("sub_a", names=("evt_1",), replay="rpl_where"),
        **expected("sub_a", names=("evt_timeout", "evt_gone"), replay="rpl_class"),
        **expected("sub_a", names=("evt_gone",), replay="rpl_reason"),
    }
    assert all((each.attempt, each.first_attempt_ms, each.tries) == (0, 0, ()) for each in town.sent())
    where = town.progress("rpl_where")
    assert where is not None
    assert where.read == 1  # no more than it takes


@virtual
async def test_what_could_not_be_made_then_is_made_of_the_event_now() -> None:
    town = ReplayTown()
    town.subscribe("sub_a", transform="missing.part | abs(@)")
    await town.events("evt_1", data=b'{"n":"one"}')
    town.order("rpl_fails", source="events")
    async with town.running():
        progress = await town.comes_to("done", "rpl_fails")
        assert (progress.counted, progress.sent, progress.skipped) == (0, 0, 1)
        (dead,) = town.kafka.records[TOPICS.dead]
        town.subscribe("sub_a", transform="n")
        town.order("rpl_skips", source="dead")
        assert (await town.comes_to("done", "rpl_skips")).skipped == 1  # it carries a replay's marker
        town.order("rpl_makes", source="dead", replayed=True, places=(Place(dead.partition, dead.offset),))
        await town.comes_to("done", "rpl_makes")
        town.subscribe("sub_a", event_types=("other",))
        town.order("rpl_no_more", source="dead", replayed=True, again=True)
        assert (await town.comes_to("done", "rpl_no_more")).skipped == 1
    (sent,) = town.sent()
    assert sent.id == delivery_id("evt_1", "sub_a")
    assert b'"data":"one"' in sent.body
    assert sent.headers == ((REPLAY_HEADER, "rpl_makes"),)


@virtual
async def test_what_is_no_event_is_passed_over() -> None:
    town = ReplayTown()
    town.subscribe("sub_a")
    town.kafka.write([(TOPICS.events, b"k", b"nothing", 0, None), (TOPICS.events, b"k", None, 1, None)])
    await town.events("evt_1")
    town.order()
    async with town.running():
        progress = await town.comes_to("done")
    assert (progress.sent, progress.read, progress.skipped) == (1, 3, 0)


@virtual
async def test_times_are_kept_exactly_though_records_are_out_of_order() -> None:
    town = ReplayTown()
    town.subscribe("sub_a")
    for number, at in enumerate((100, 250, 150, 199, 50, 200, 120)):
        town.now_ms = START_MS + at
        await town.events(f"evt_{at}_{number}", partition=0)
    town.now_ms = None
    town.order(since_ms=START_MS + 120, until_ms=START_MS + 200)
    town.order("rpl_2", since_ms=START_MS + 1_000)
    async with town.running():
        await town.comes_to("done")
        assert (await town.comes_to("done", "rpl_2")).read == 0
    names = ("evt_150_2", "evt_199_3", "evt_120_6")
    assert town.names() == expected("sub_a", names=names)


# --- waiting ----------------------------------------------------------------------------------------------------------


@virtual
async def test_a_subscription_that_is_pending_is_waited_for_and_nothing_is_missed() -> None:
    town = ReplayTown()
    await town.events("evt_1")
    town.order(subscriptions=("sub_new",))
    async with town.running():
        await town.comes_to("waiting")
        town.subscribe("sub_new", verification="consent")
        await town.events("evt_2")
        await passing(300)
        assert town.state() == "waiting"
        ready = town.table.get("sub_new")
        assert ready is not None
        town.table.put(active(ready))
        await passing(1)
        assert town.state() == "waiting"  # not every worker may know it yet
        await town.events("evt_3")
        progress = await town.comes_to("done", seconds=30)
        await town.events("evt_4")
        await passing(60)
    assert town.names() == expected("sub_new", names=("evt_1", "evt_2", "evt_3"))
    assert progress.sent == progress.counted == 3


def active(pending: Subscription) -> Subscription:
    return msgspec.structs.replace(pending, verification="none")


@virtual
async def test_one_that_was_there_before_is_not_waited_for_and_one_that_never_comes_fails() -> None:
    town = ReplayTown()
    town.subscribe("sub_a", created_ms=START_MS - 60_000)
    await town.events("evt_1")
    town.order(subscriptions=("sub_a",))
    town.order("rpl_2", subscriptions=("sub_gone",))
    async with town.running():
        await town.comes_to("done", seconds=1)
        await town.comes_to("waiting", "rpl_2")
        failed = await town.comes_to("failed", "rpl_2", seconds=90)
    assert failed.detail == "there is no subscription sub_gone"
    assert [each.reason for each in town.operations()] == ["done", "failed"]


# --- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_killed_at_any_moment_each_is_sent_once(seed: int) -> None:
    @virtual
    async def test() -> None:
        chance = random.Random(seed)
        town = await a_town(deliveries_max=chance.choice((1, 3, 7, 40)), read_max=chance.choice((1, 5, 50)), note_s=0)
        rate = chance.choice((0.0, 50.0))
        town.order(rate_max=rate)
        town.order("rpl_2", subscriptions=("sub_a", "sub_b"), event_ids=NAMES[:30])
        kills = 0
        while town.state() != "done" or town.state("rpl_2") != "done":
            async with town.running():
                for _ in range(chance.randrange(1, 80)):
                    await asyncio.sleep(0)
                if rate and chance.random() < 0.5:
                    await passing(0.02)
            kills += 1
            assert kills < 5_000
        assert kills > 1
        names = expected("sub_a", "sub_b") | expected("sub_a", "sub_b", names=NAMES[:30], replay="rpl_2")
        assert town.names() == names
        for name, count in (("rpl_1", 120), ("rpl_2", 60)):
            progress = town.progress(name)
            assert progress is not None
            assert (progress.sent, progress.counted) == (count, count)
        assert sorted(each.replay_id for each in town.operations()) == ["rpl_1", "rpl_2"]

    test()


@virtual
async def test_a_zombie_writes_nothing_once_another_one_has_begun() -> None:
    town = await a_town()
    town.order(rate_max=20.0)
    zombie = asyncio.create_task((await town.stage()).run())
    await town.comes_to("running")
    await passing(1)
    async with town.running():
        await town.comes_to("done")
        with pytest.raises(FencedError):
            await zombie
    assert town.names() == expected("sub_a", "sub_b")


@virtual
async def test_a_record_that_no_topic_takes_fails_its_replay_alone() -> None:
    town = ReplayTown(bytes_max={TOPICS.replay: 400})
    town.subscribe("sub_a")
    await town.events("evt_1", data=b'"' + b"x" * 500 + b'"')
    await town.events("evt_2")
    town.order()
    town.order("rpl_2", event_ids=("evt_2",))
    async with town.running():
        failed = await town.comes_to("failed")
        await town.comes_to("done", "rpl_2")
    assert "raise its max.message.bytes" in failed.detail
    assert town.names() == expected("sub_a", names=("evt_2",), replay="rpl_2")


@virtual
async def test_what_retention_takes_before_it_is_read_is_said() -> None:
    town = await a_town()
    town.order(wanted="planned")
    async with town.running():
        await town.comes_to("planned")
        town.kafka.remove(TOPICS.events, 0, 10)
        town.orders.change("rpl_1", wanted="running")
        progress = await town.comes_to("done")
    assert progress.detail == f"retention has removed 10 offsets of {TOPICS.events} before they were read"
    assert progress.sent == 120 - 5 * 2
    assert town.operations()[0].detail == progress.detail


@virtual
async def test_a_log_that_seems_to_end_early_is_no_end() -> None:
    town = await a_town()
    town.order()
    town.behind_until_ms = START_MS + 30_000
    async with town.running():
        await passing(20)
        assert town.state() == "counting"
        progress = await town.comes_to("done")
    assert progress.sent == progress.counted == 120


@virtual
async def test_one_that_is_removed_is_no_more_looked_at_and_others_wait_for_its_place() -> None:
    town = await a_town(jobs_max=1)
    town.order(rate_max=1.0)
    town.order("rpl_2", created_ms=START_MS + 1)
    async with town.running():
        await town.comes_to("running")
        await passing(5)
        assert town.state("rpl_2") == ""
        stage = town.orders.stage
        assert stage is not None
        assert list(stage.progress) == ["rpl_1"]
        town.orders.remove("rpl_1")
        await town.comes_to("done", "rpl_2")
        assert town.readers == 0
        assert not stage.progress
    assert sum(count for (_, replay), count in town.names().items() if replay == "rpl_2") == 120


@pytest.mark.parametrize("turns", range(0, 120, 3))
def test_one_that_is_removed_at_any_moment_stops_nothing(turns: int) -> None:
    @virtual
    async def test() -> None:
        town = await a_town()
        town.order()
        async with town.running() as task:
            for _ in range(turns):
                await asyncio.sleep(0)
            town.orders.remove("rpl_1")
            await passing(10)
            assert not task.done()
            assert town.readers == 0
            assert town.orders.stage is not None
            assert not town.orders.stage.progress

    test()


@virtual
async def test_a_dead_letter_is_sent_by_one_replay_however_they_overlap() -> None:
    town = ReplayTown()
    town.subscribe("sub_a")
    offsets = [(await town.died(name, "sub_a")).offset for name in NAMES[:20]]
    places = [Place(town.kafka.records[TOPICS.dead][0].partition, offset) for offset in offsets]
    town.order("rpl_1", source="dead", places=tuple(places[:12]), rate_max=4.0)
    town.order("rpl_2", source="dead", places=tuple(places[8:]), rate_max=4.0)
    town.table_is_behind = True  # also where one has ended, and the table does not say so yet
    async with town.running():
        for name in ("rpl_1", "rpl_2"):
            await town.comes_to("done", name)
        town.order("rpl_3", source="dead", again=True, places=(places[0],))
        await town.comes_to("done", "rpl_3")
        town.order("rpl_4", source="dead")
        late = await town.comes_to("done", "rpl_4")
    counts = Counter(each.id for each in town.sent())
    assert counts.pop(delivery_id(NAMES[0], "sub_a")) == 2  # again was said
    assert counts == {delivery_id(name, "sub_a"): 1 for name in NAMES[1:20]}
    assert (late.sent, late.skipped) == (0, 20)


@virtual
async def test_dead_letters_whose_subscription_is_gone_are_told_apart_from_those_that_were_sent() -> None:
    town = ReplayTown()
    town.subscribe("sub_a")
    stored = [await town.died(name, sub) for name in NAMES[:10] for sub in ("sub_a", "sub_gone")]
    stored.append(await town.died("evt_unmade", "sub_gone", reason="unresolvable"))
    town.order(source="dead", rate_max=4.0)
    async with town.running():
        await until(lambda: bool(town.sent()), 60, "some are sent")
        town.table.delete("sub_a")
        progress = await town.comes_to("done")
    sent = {each.id for each in town.sent()}
    assert 0 < len(sent) < 10
    assert (progress.sent, progress.sent + progress.skipped) == (len(sent), len(stored))
    assert (
        progress.detail == "nothing was sent to sub_a and 1 more, gone or changed since: their dead letters stay open"
    )
    of = acts(TOPICS.dead, [(town.orders.by_id["rpl_1"], progress)], [])
    for each in stored:
        letter = decode_dead_letter(each.value)
        (act,) = of(Filed(each.partition, each.offset, START_MS, letter))
        assert act.state == ("retried" if letter.delivery.id in sent else "skipped")
    assert len(progress.unsent) == 2  # one for each subscription


@virtual
async def test_dead_letters_of_too_many_subscriptions_that_are_gone_fail_the_replay() -> None:
    town = ReplayTown()
    for number in range(4):
        await town.died("evt_1", f"sub_{number}")
    town.order(source="dead")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "UNSENT_MAX", 3)
        async with town.running():
            progress = await town.comes_to("failed")
    assert progress.detail.endswith("more than 3 subscriptions that are gone; choose fewer, by subscription or time")
    assert not town.sent()
