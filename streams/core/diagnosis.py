"""What `distributary doctor` finds: the finding, and what figures mean for people.

It does NOT look at anything (`streams/cli/doctor_checks.py` does), and knows neither Kafka nor a clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

#: How far ahead of this machine's clock a record may be: clocks that are kept by NTP differ by less.
CLOCK_AHEAD_MS_MAX = 5_000
#: A server's certificate that ends sooner is a problem: the renewal that should have come has not.
CERTIFICATE_LEFT_MS_MIN = 14 * 24 * 3600 * 1000
#: Names in one sentence; of the others, how many there are.
NAMED_MAX = 3

#: `ok`: as it should be; `note`: worth knowing; `wrong`: somebody has to do something.
Level = Literal["ok", "note", "wrong"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `sentence` says what is, and with `wrong` what to do next."""

    level: Level
    area: str
    sentence: str


class Backlog(msgspec.Struct, frozen=True):
    """What of a partition a group has not finished.

    `oldest_ms` is the timestamp of the first record that waits, None where none does (what is left are markers of
    transactions); `lost` is how many records retention removed before the group had read them.
    """

    topic: str
    partition: int
    position: int
    oldest_ms: int | None = None
    lost: int = 0


def judge_group(
    role: str, members: int, before: Sequence[Backlog], after: Sequence[Backlog], now_ms: int, late_ms: int
) -> list[Finding]:
    """What two looks at a group, some seconds apart, say about it. A record may wait for `late_ms`."""
    found = []
    lost = [each for each in after if each.lost]
    if lost:
        found.append(
            Finding(
                "wrong",
                "groups",
                f"retention removed {sum(each.lost for each in lost)} records of {named(_places(lost))} before"
                f" {role} had read them; run more workers, and keep the topic for longer",
            )
        )
    waiting = [each for each in after if each.oldest_ms is not None]
    oldest_ms = min((each.oldest_ms for each in waiting if each.oldest_ms is not None), default=now_ms)
    late = [each for each in waiting if each.oldest_ms is not None and now_ms - each.oldest_ms > late_ms]
    if not members:
        if waiting:
            sentence = (
                f"no worker with the role {role} runs, and records wait since {seconds(now_ms - oldest_ms)}; start one"
                f" with `distributary worker --role {role}`"
            )
            found.append(Finding("wrong", "groups", sentence))
        else:
            found.append(Finding("note", "groups", f"no worker with the role {role} runs; nothing waits for one"))
    elif late:
        stood = {(each.topic, each.partition): each.position for each in before}
        stuck = [each for each in late if stood.get((each.topic, each.partition)) == each.position]
        where, since = named(_places(stuck or late)), seconds(now_ms - oldest_ms)
        if stuck:
            sentence = f"{role} does not get on with {where}, where a record waits since {since}; see its workers' logs"
        else:
            sentence = f"{role} is behind: a record of {where} waits since {since}; run more workers"
        found.append(Finding("wrong", "groups", sentence))
    elif not lost:
        workers = f"{members} worker{'s' * (members != 1)}"
        waits = f", the oldest record waits since {seconds(now_ms - oldest_ms)}" if waiting else ", nothing waits"
        found.append(Finding("ok", "groups", f"{role}: {workers}{waits}"))
    return found


def judge_clock(newest_ms: Mapping[str, int], now_ms: int) -> Finding:
    """Whether records, by topic the newest one's time, come from the future. That a clock is behind cannot be told."""
    topic, newest = max(newest_ms.items(), key=lambda item: item[1], default=("", 0))
    ahead_ms = newest - now_ms
    if ahead_ms > CLOCK_AHEAD_MS_MAX:
        return Finding(
            "wrong",
            "clocks",
            f"a record of {topic} is {seconds(ahead_ms)} ahead of this machine's clock: retries and signatures go by"
            f" clocks; let NTP set the one of this machine and those of who writes there",
        )
    return Finding("ok", "clocks", "no record is ahead of this machine's clock")


def judge_certificate(host: str, until_ms: int, now_ms: int) -> Finding:
    """Whether a server's certificate is good for long enough."""
    left_ms = until_ms - now_ms
    if left_ms < CERTIFICATE_LEFT_MS_MIN:
        return Finding(
            "wrong",
            "endpoint",
            f"the certificate of {host} ends in {seconds(left_ms)}; its owner has to renew it, or deliveries will fail",
        )
    return Finding("ok", "endpoint", f"the certificate of {host} is good for {seconds(left_ms)}")


def named(names: Sequence[str]) -> str:
    """Some of the names, and how many more there are."""
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def seconds(ms: int) -> str:
    """A duration in the largest unit that leaves a number above one: 90 s, 5 min, 3 h, 12 d."""
    value = max(ms, 0) // 1000
    for size, unit in ((172_800, "d"), (7_200, "h"), (120, "min")):
        if value >= size:
            return f"{value // {'d': 86_400, 'h': 3_600, 'min': 60}[unit]} {unit}"
    return f"{value} s"


def _places(each: Sequence[Backlog]) -> list[str]:
    return [f"{one.topic}[{one.partition}]" for one in each]
