"""What figures of groups, clocks and certificates mean for people."""

from __future__ import annotations

import pytest

from streams.core.diagnosis import Backlog, Finding, judge_certificate, judge_clock, judge_group, named, seconds

NOW, LATE = 1_785_585_600_000, 60_000
DAY = 86_400_000


def backlog(position: int = 5, waits_ms: int | None = None, lost: int = 0, partition: int = 0) -> Backlog:
    return Backlog("events", partition, position, None if waits_ms is None else NOW - waits_ms, lost)


def group(members: int, before: list[Backlog], after: list[Backlog] | None = None) -> Finding:
    (found,) = judge_group("fan-out", members, before, before if after is None else after, NOW, LATE)
    return found


@pytest.mark.parametrize(
    ("members", "waits_ms", "level", "said"),
    [
        (2, None, "ok", "fan-out: 2 workers, nothing waits"),
        (1, LATE, "ok", "fan-out: 1 worker, the oldest record waits since 60 s"),
        (0, None, "note", "no worker with the role fan-out runs; nothing waits for one"),
        (0, 0, "wrong", "no worker with the role fan-out runs, and records wait since 0 s; start one with"),
    ],
)
def test_a_group(members: int, waits_ms: int | None, level: str, said: str) -> None:
    found = group(members, [backlog(waits_ms=waits_ms), backlog(partition=1)])
    assert (found.level, found.area) == (level, "groups")
    assert found.sentence.startswith(said)


def test_a_group_that_stands_still_and_one_that_is_only_behind() -> None:
    late = backlog(5, LATE + 1)
    assert group(1, [late]).sentence.startswith(
        "fan-out does not get on with events[0], where a record waits since 60 s"
    )
    on = group(1, [late], [backlog(6, LATE + 1)])
    assert on.level == "wrong"
    assert on.sentence.startswith("fan-out is behind: a record of events[0] waits since 60 s; run more workers")
    one_of_two = group(1, [late, backlog(5, 3 * LATE, partition=1)], [backlog(6, LATE + 1), backlog(5, 3 * LATE, 0, 1)])
    assert one_of_two.sentence.startswith("fan-out does not get on with events[1], where a record waits since 3 min")


def test_what_retention_took_is_told_beside_the_rest() -> None:
    found = judge_group("fan-out", 0, [], [backlog(5, 1_000, 7), backlog(5, None, 3, 1)], NOW, LATE)
    assert [each.level for each in found] == ["wrong", "wrong"]
    assert found[0].sentence.startswith("retention removed 10 records of events[0], events[1] before fan-out had read")
    (only,) = judge_group("fan-out", 1, [], [backlog(lost=1)], NOW, LATE)
    assert only.level == "wrong"


def test_clocks() -> None:
    assert judge_clock({}, NOW).level == "ok"
    assert judge_clock({"events": NOW + 5_000, "attempts": NOW - DAY}, NOW).level == "ok"
    found = judge_clock({"events": NOW + 5_001, "attempts": NOW + 3 * 3_600_000}, NOW)
    assert found.level == "wrong"
    assert found.sentence.startswith("a record of attempts is 3 h ahead of this machine's clock")


def test_certificates() -> None:
    assert judge_certificate("a.example", NOW + 14 * DAY, NOW).level == "ok"
    found = judge_certificate("a.example", NOW + 14 * DAY - 1, NOW)
    assert found.level == "wrong"
    assert found.sentence.startswith("the certificate of a.example ends in 13 d; its owner has to renew it")


def test_words() -> None:
    assert [seconds(ms) for ms in (-1, 999, 119_999, 120_000, 7_200_000, 172_800_000)] == [
        *("0 s", "0 s", "119 s", "2 min", "2 h", "2 d")
    ]
    assert named(["a", "b", "c"]) == "a, b, c"
    assert named(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
