"""What a proposed version of a subject would break: the subject's level, and the subscriptions that get its events.

Pure: the versions, the subscriptions and the event types that are written with the subject are arguments. This file
registers nothing, and does not look into filters and transforms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from schemas.compatibility import Level, incompatibilities, unreadable
from schemas.subjects import LATEST
from schemas.subscription import Subscription
from streams.core.match import MatchIndex


class Reason(msgspec.Struct, frozen=True):
    """Why: `version` is the earlier one that does not go together with the proposed one; `path` is in the fields of
    whichever reads, such as `$.total`."""

    version: int
    path: str
    sentence: str


class Broken(msgspec.Struct, frozen=True):
    """A subscription that could not be sent what is written with the proposed schema, or is still to be sent."""

    id: str
    tenant: str
    schema_version: int
    event_types: tuple[str, ...]
    reasons: tuple[Reason, ...]


class Report(msgspec.Struct, frozen=True):
    """All that a proposed schema breaks. `level_reasons` are those for which a registry refuses it; `pinned` counts the
    subscriptions that were looked at, `as_written` those that get the new form as it is."""

    level: str
    level_reasons: tuple[Reason, ...]
    event_types: tuple[str, ...]
    broken: tuple[Broken, ...]
    pinned: int
    as_written: int

    @property
    def fine(self) -> bool:
        """Whether nothing breaks."""
        return not self.level_reasons and not self.broken

    @property
    def broken_types(self) -> tuple[str, ...]:
        """The event types that some subscription could not be sent any more."""
        return tuple(sorted({name for one in self.broken for name in one.event_types}))


def check(
    proposed: str,
    versions: Mapping[int, str],
    level: Level,
    event_types: Sequence[str],
    subscriptions: Iterable[Subscription],
) -> Report:
    """What the proposed schema would break. `versions` are those of the subject by number, texts with references
    written out; `event_types` are written with it. ValueError when a text is no Avro schema.

    A subscription pinned to n breaks when n cannot read what is written with the proposed schema; one on `latest`,
    when the proposed schema cannot read the events of an earlier version that are still to be sent.
    """
    numbers = sorted(versions)
    level_reasons = [
        Reason(numbers[reason.against], reason.problem.path, _directed(reason.backward, reason.problem.sentence))
        for reason in incompatibilities(level, proposed, [versions[number] for number in numbers])
    ]
    index = MatchIndex()
    tenants = set()
    for subscription in subscriptions:
        index.put(subscription)
        tenants.add(subscription.tenant)
    types: dict[str, list[str]] = {}  # of each subscription
    for name in event_types:
        for tenant in tenants:
            for subscription in index.match(tenant, name):
                types.setdefault(subscription.id, []).append(name)
    reasons: dict[int, tuple[Reason, ...]] = {}
    broken = []
    pinned = 0
    for subscription_id in sorted(types):
        found = index.get(subscription_id)
        assert found is not None
        wanted = found.schema_version
        if not wanted:
            continue
        pinned += 1
        if wanted not in reasons:
            reasons[wanted] = tuple(_reasons(proposed, versions, wanted))
        if reasons[wanted]:
            names = tuple(sorted(types[subscription_id]))
            broken.append(Broken(subscription_id, found.tenant, wanted, names, reasons[wanted]))
    return Report(
        level, tuple(level_reasons), tuple(sorted(event_types)), tuple(broken), pinned, as_written=len(types) - pinned
    )


def _reasons(proposed: str, versions: Mapping[int, str], wanted: int) -> Iterable[Reason]:
    if wanted == LATEST:
        for number in sorted(versions):
            for problem in unreadable(proposed, versions[number]):
                yield Reason(number, problem.path, _directed(True, problem.sentence))
    elif wanted in versions:
        for problem in unreadable(versions[wanted], proposed):
            yield Reason(wanted, problem.path, _directed(False, problem.sentence))
    elif wanted > max(versions, default=0) + 1:  # the one that is proposed gets the next number
        yield Reason(wanted, "$", "the subject has no such version")


def _directed(backward: bool, sentence: str) -> str:
    who = "the proposed schema cannot read what it wrote" if backward else "it cannot read what the proposed one writes"
    return f"{who}: {sentence}"
