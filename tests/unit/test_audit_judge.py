"""The audit's verdict: all well when all is well, and each thing that must not be is seen for what it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import msgspec
import pytest

from connectors.faulty_receiver import BROKEN, REFUSED, SILENT
from streams.cli.audit_judge import AFTERMATH_MS, JUDGED_FROM, EventPlaces, combined
from streams.cli.audit_plan import COUNTS, DYING, Plan
from tests.audit import START_MS, Books

SEED = 3


@cache
def plan() -> Plan:
    return Plan(SEED, 3_000)


@pytest.fixture
def books() -> Books:
    return Books(plan())


def test_all_is_well(books: Books) -> None:
    verdict = books.verdict()
    result = verdict.result
    assert verdict.problems == []
    assert result.expected == plan().deliveries == result.delivered + result.dead
    assert result.dead == len(books.dead) > 0
    assert (result.pending, result.lost, result.duplicates, result.doubled, result.out_of_order) == (0, 0, 0, 0, 0)
    assert result.attempts == len(books.attempts)
    assert result.posts == len(books.posts)
    assert result.p50_ms is not None
    assert result.p99_ms is not None
    assert 10 <= result.p50_ms < result.p99_ms
    assert result.seed == SEED
    assert {kind: row.endpoints for kind, row in verdict.by_kind.items()} == COUNTS
    for kind, row in verdict.by_kind.items():
        assert (row.dead if kind in DYING else row.delivered) == row.expected


Change = Callable[[Books], None]


def no_attempts(books: Books) -> None:
    books.without(books.attempts, books.of("steady"))


def no_receiver(books: Books) -> None:
    books.posts.remove(books.post_of(books.of("steady")))


def refused_only(books: Books) -> None:
    post = books.post_of(books.of("steady"))
    books.posts[books.posts.index(post)] = msgspec.structs.replace(post, fate=REFUSED)


def no_dead_letter(books: Books) -> None:
    books.without(books.dead, books.of("rejecting"))


def only_a_dead_letter(books: Books) -> None:
    books.without(books.attempts, books.of("rejecting"))


def delivered_and_dead(books: Books) -> None:
    books.dead.append({"reason": "exhausted", "delivery": books.fields(books.of("steady"))})


def cancelled(books: Books) -> None:
    delivery = books.of("steady")
    books.without(books.attempts, delivery)
    books.attempts.append(books.fields(delivery, attempt=0, outcome="cancelled", status=0, cause=""))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (no_attempts, "accepted by its receiver, and not settled"),
        (no_receiver, "delivered according to its attempts, and no receiver accepted it"),
        (refused_only, "delivered according to its attempts, and no receiver accepted it"),
        (no_dead_letter, "given up according to its attempts, and no dead letter"),
        (only_a_dead_letter, "a dead letter without its last attempt"),
        (delivered_and_dead, "delivered according to its attempts, and a dead letter as well"),
        (cancelled, "cancelled, and nobody asked for that"),
    ],
)
def test_lost(books: Books, change: Change, why: str) -> None:
    change(books)
    verdict = books.verdict()
    assert verdict.result.lost == 1
    assert sum(row.lost for row in verdict.by_kind.values()) == 1
    (problem,) = verdict.problems
    assert problem.startswith("1 lost; ")
    assert problem.endswith(why)


def test_an_answer_that_lied_may_be_believed(books: Books) -> None:
    post = books.post_of(books.of("steady"))
    books.posts[books.posts.index(post)] = msgspec.structs.replace(post, fate=BROKEN)
    assert books.verdict().problems == []


# --- pending ----------------------------------------------------------------------------------------------------------


def forgotten(books: Books) -> int:
    """A delivery that was never tried."""
    delivery = books.of("steady")
    books.without(books.attempts, delivery)
    books.posts.remove(books.post_of(delivery))
    return delivery


def test_what_was_never_tried_is_pending_while_its_offset_is_not_committed(books: Books) -> None:
    delivery = forgotten(books)
    assert books.verdict().result.lost == 1
    books.committed["deliveries", 0] = books.deliveries.index(books.fields(delivery)) + 1
    assert books.verdict().result.lost == 1
    books.committed["deliveries", 0] -= 1
    result = books.verdict().result
    assert (result.pending, result.lost) == (1, 0)


def test_what_was_not_fanned_out_is_pending_while_its_event_is_not_committed(books: Books) -> None:
    delivery = forgotten(books)
    books.without(books.deliveries, delivery)
    n, _ = plan().place(delivery)
    assert books.verdict().result.lost == 1
    books.committed["events", 0] = n
    verdict = books.verdict()
    assert (verdict.result.pending, verdict.result.lost) == (1, 0)
    assert verdict.problems[0].startswith("1 not fanned out")


def test_what_failed_is_pending_with_the_retry_of_its_last_attempt(books: Books) -> None:
    delivery = forgotten(books)
    for attempt in (1, 2):
        books.refuse(delivery, attempt, "retryable", START_MS)
        books.retries.append(books.fields(delivery, attempt=attempt))
    last = len(books.retries) - 1
    books.committed["deliveries.retry.1s", 0] = last
    assert books.verdict().result.pending == 1
    books.retries[-1]["attempt"] = 3  # not what its attempts lead to
    assert books.verdict().result.lost == 1


def test_what_is_parked_is_pending(books: Books) -> None:
    delivery = forgotten(books)
    books.parked.append((books.fields(delivery), 7))
    assert books.verdict().result.pending == 1
    books.finished.append(7)
    assert books.verdict().result.lost == 1


def test_what_has_ended_must_not_stay_parked(books: Books) -> None:
    books.parked.append((books.fields(books.of("tried")), 7))
    assert books.verdict().problems[0].startswith("1 parked though ended")
    books.finished.append(7)
    assert books.verdict().problems == []


# --- things that are there twice --------------------------------------------------------------------------------------


def attempt_twice(books: Books) -> None:
    books.attempts.append(books.fields(books.of("failing"), attempt=1, outcome="retryable", status=0, cause="timeout"))


def retry_twice(books: Books) -> None:
    books.retries.append(books.fields(books.of("failing"), attempt=1))


def end_twice(books: Books) -> None:
    books.attempts.append(books.fields(books.of("steady"), attempt=2, outcome="delivered", status=200, cause=""))


def dead_twice(books: Books) -> None:
    books.dead.append(books.dead[0])


def fanned_out_twice(books: Books) -> None:
    books.deliveries.append(books.deliveries[0])


def finished_twice(books: Books) -> None:
    books.parked.append((books.fields(books.of("steady")), 7))
    books.finished += [7, 7]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (attempt_twice, "doubled attempts"),
        (retry_twice, "doubled retries"),
        (end_twice, "doubled ends"),
        (dead_twice, "doubled dead letters"),
        (fanned_out_twice, "doubled fan-outs"),
        (finished_twice, "doubled finish markers"),
    ],
)
def test_doubled(books: Books, change: Change, what: str) -> None:
    change(books)
    verdict = books.verdict()
    assert verdict.result.doubled == 1
    assert [problem.split(";")[0] for problem in verdict.problems] == [f"1 {what}"]


def test_an_end_without_a_post_repeats_no_attempt(books: Books) -> None:
    delivery = forgotten(books)
    books.refuse(delivery, 1, "retryable", START_MS)
    books.retries.append(books.fields(delivery, attempt=1))
    books.attempts.append(books.fields(delivery, attempt=1, outcome="rejected", status=0, cause=""))
    books.dead.append({"reason": "disabled", "delivery": books.fields(delivery)})
    verdict = books.verdict()
    assert verdict.result.doubled == 0
    assert verdict.problems[0].startswith("1 ended otherwise")  # it should have been delivered


# --- things that nobody asked for -------------------------------------------------------------------------------------


def stranger(books: Books) -> tuple[int, int]:
    """(event, target) that do not belong together."""
    return next(
        (n, target.number)
        for n in range(plan().events)
        for target in plan().targets
        if plan().delivery(target.number, n) is None
    )


def test_unexpected_in_kafka(books: Books) -> None:
    n, target = stranger(books)
    fields = {"subscription_id": plan().targets[target].id, "event_id": f"evt_{n:07d}"}
    books.deliveries.append(fields)
    books.attempts.append(fields | {"attempt": 1, "outcome": "delivered", "status": 204, "cause": ""})
    books.dead.append({"reason": "gone", "delivery": {"subscription_id": "e000-other", "event_id": "evt_0000001"}})
    books.retries.append({"subscription_id": "mine", "event_id": "theirs", "attempt": 1})
    books.parked.append((fields, 3))
    verdict = books.verdict()
    assert verdict.result.unexpected == 5
    assert verdict.result.lost == 0


def test_unexpected_at_a_receiver(books: Books) -> None:
    n, target = stranger(books)
    post = msgspec.structs.replace(books.posts[0], endpoint=target, number=n)
    books.posts += [post, msgspec.structs.replace(post, number=10_000_000)]
    assert books.verdict().result.unexpected == 2


def test_ends_of_the_wrong_kind(books: Books) -> None:
    delivery = books.of("rejecting")
    books.without(books.dead, delivery)
    books.without(books.attempts, delivery)
    books.attempts.append(books.fields(delivery, attempt=1, outcome="delivered", status=204, cause=""))
    post = books.post_of(delivery)
    books.posts.append(msgspec.structs.replace(post, fate=1))
    assert books.verdict().problems[0].startswith("1 ended otherwise")


def test_not_fanned_out_quarantined_strange_and_unsigned(books: Books) -> None:
    books.deliveries.pop()
    books.quarantined.append("{'error': 'avro'}")
    books.stats = (2, 3)
    assert [problem.split(";")[0] for problem in books.verdict().problems] == [
        "3 POSTs badly signed",
        "2 POSTs that made no sense",
        "1 not fanned out",
        "1 quarantined",
    ]


def test_a_webhook_id_that_changed(books: Books) -> None:
    books.posts.append(msgspec.structs.replace(books.posts[0], digest=1, fate=SILENT))
    assert books.verdict().problems[0].startswith("1 changed webhook-ids")


# --- order ------------------------------------------------------------------------------------------------------------


def pair(books: Books) -> tuple[int, int]:
    """Places in `posts` of two events with one key at one ordered endpoint, the earlier one first."""
    seen: dict[tuple[int, int], int] = {}
    for place, post in enumerate(books.posts):
        key = (post.endpoint, plan().lane(post.number))
        if plan().targets[post.endpoint].kind == "ordered":
            if key in seen:
                return seen[key], place
            seen[key] = place
    raise AssertionError


def test_out_of_order(books: Books) -> None:
    first, second = pair(books)
    books.posts[first], books.posts[second] = books.posts[second], books.posts[first]
    verdict = books.verdict()
    assert verdict.result.out_of_order == 1
    assert verdict.problems[0].startswith("1 out of order")


def test_sent_while_an_earlier_one_is_refused_is_out_of_order(books: Books) -> None:
    first, second = pair(books)
    accepted = books.posts[first]
    books.posts[first] = msgspec.structs.replace(accepted, fate=REFUSED)
    books.posts.insert(second + 1, accepted)  # later than the second
    assert books.verdict().result.out_of_order == 1


def test_repeats_of_earlier_ones_are_in_order(books: Books) -> None:
    first, second = pair(books)
    books.posts.insert(second + 1, msgspec.structs.replace(books.posts[first], fate=SILENT))
    assert books.verdict().result.out_of_order == 0


# --- duplicates -------------------------------------------------------------------------------------------------------


def again(books: Books, after_ms: int) -> int:
    """A steady endpoint accepts a second time; when it did the first time."""
    post = books.post_of(books.of("steady"))
    books.posts.append(msgspec.structs.replace(post, arrived_ms=post.arrived_ms + after_ms))
    return post.arrived_ms


def test_duplicates_need_a_fault_that_explains_them(books: Books) -> None:
    at_ms = again(books, after_ms=5_000)
    books.fault("worker_join", at_ms, at_ms + 1_000)
    verdict = books.verdict()
    assert (verdict.result.duplicates, verdict.result.unexplained) == (1, 1)
    assert verdict.problems[0].startswith("1 unexplained duplicates")
    books.fault("cut_brokers", at_ms + 1_000, at_ms + 1_500)
    books.fault("worker_kill", at_ms + 2_000, at_ms + 3_000)
    verdict = books.verdict()
    assert verdict.by_fault == {"worker_kill": 1}
    assert verdict.problems == []
    assert sum(row.duplicates for row in verdict.by_kind.values()) == 1


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "explains"),
    [
        (-3_000, -AFTERMATH_MS - 100, False),  # over before
        (-3_000, -AFTERMATH_MS + 100, True),  # at work still
        (4_000, 4_100, True),
        (5_500, 6_000, False),  # after
    ],
)
def test_a_fault_explains_what_happens_around_it(books: Books, start_ms: int, end_ms: int, explains: bool) -> None:
    at_ms = again(books, after_ms=5_000)
    books.fault("worker_freeze", at_ms + start_ms, at_ms + end_ms)
    assert (books.verdict().result.unexplained == 0) == explains


def test_an_endpoint_in_trouble_explains_its_own_duplicates_only(books: Books) -> None:
    at_ms = again(books, after_ms=1_000)
    own = books.posts[-1].endpoint
    books.fault("endpoint_slow", at_ms, at_ms + 500, endpoint=own + 1)
    assert books.verdict().result.unexplained == 1
    books.fault("endpoint_reset", at_ms, at_ms + 500, endpoint=own)
    assert books.verdict().by_fault == {"endpoint_reset": 1}


def test_too_many_duplicates() -> None:
    books = Books(Plan(SEED, JUDGED_FROM + 30_000))
    steady = [post for post in books.posts if books.plan.targets[post.endpoint].kind == "steady"]
    allowed = books.verdict().result.delivered // 1_000
    books.fault("worker_kill", START_MS, START_MS + 1_000_000)
    books.posts += steady[:allowed]
    verdict = books.verdict()
    assert verdict.problems == []
    assert verdict.result.duplicate_rate == pytest.approx(0.001, rel=0.02)
    books.posts.append(steady[allowed])
    assert books.verdict().problems == [f"{allowed + 1} duplicates are more than 0.1% of what was delivered"]


def test_of_several_runs_everything_is_summed_and_judged_once() -> None:
    one, two = Books(plan()), Books(Plan(SEED + 1, 2_000))
    no_attempts(two)
    first, second = one.verdict(), two.verdict()
    both = combined([first, second])
    for name in ("expected", "delivered", "dead", "lost", "posts", "attempts"):
        assert getattr(both.result, name) == getattr(first.result, name) + getattr(second.result, name) > 0
    assert both.problems == second.problems != []
    assert both.result.p50_ms == sorted(first.latencies + second.latencies)[len(both.latencies) // 2 - 1]
    assert {kind: row.endpoints for kind, row in both.by_kind.items()} == COUNTS
    assert sum(row.posts for row in both.by_kind.values()) == both.result.posts
    assert both.result.broker == "Kafka, then Kafka"


def test_an_event_that_nobody_knows_the_place_of_may_still_be_on_its_way() -> None:
    places = EventPlaces(2)
    places.put(0, 3, 17)
    places.put(1, None, None)
    assert (places.partitions[0], places.offsets[0]) == (3, 17)
    assert places.offsets[1] > 1 << 62
