"""Dead letters as the API and the command line show them, and the words in which they are asked for.

Which letters are wanted, and what became of one, is asked of a `Judge`, which the composition root makes of
`streams/core/dead.py` and the tables. This file reads no topic.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import orjson

from connectors.dead_letters import Within
from schemas.dead_letter import Act, DeadState, Filed, state_of
from schemas.dead_mark import DeadMark
from schemas.delivery import replay_of
from schemas.hints import attempt_hint, dead_hint
from schemas.rendering import on_one_line
from schemas.replay import Place, Selection

#: How a dead letter is named: its partition and its offset.
DEAD_ID_PATTERN = re.compile(r"([0-9]{1,9})-([0-9]{1,18})")
#: Of a payload that is shown; all of it is in the export.
PAYLOAD_BYTES_MAX = 65_536
#: Subscriptions that a summary names, those with the most.
NAMED_MAX = 100
STATES: tuple[DeadState, ...] = ("open", "retried", "discarded")
_JSON = re.compile(r"(application/json|[\w.+-]+/[\w.+-]+\+json)", re.ASCII)
_TEXT = re.compile(r"(text/.+|application/xml|application/x-www-form-urlencoded|[\w.+-]+/[\w.+-]+\+xml)", re.ASCII)


class Judge(Protocol):
    """What is known of dead letters besides their records."""

    def chosen(self, selection: Selection) -> Callable[[Filed], bool]:
        """Whether the selection selects it, prepared for many."""

    def acts(self) -> Callable[[Filed], tuple[Act, ...]]:
        """What was done about it as of now, the latest first, prepared for many."""

    def error_class(self, filed: Filed) -> str:
        """How its last attempt failed, in a word."""


class DeadView(msgspec.Struct, kw_only=True):
    """A dead letter in short. Times are milliseconds since the epoch.

    `status` and `cause` are of the last attempt, 0 and empty where there was none or the other one says it. `replay` is
    the replay that had sent it, empty for none.
    """

    id: str
    state: DeadState
    dead_ms: int
    reason: str
    detail: str
    subscription_id: str
    tenant: str
    delivery_id: str
    event_id: str
    event_type: str
    subject: str | None
    event_time_ms: int
    attempts: int
    status: int
    cause: str
    error_class: str
    hint: str
    replay: str
    content_type: str
    payload_bytes: int


class TryView(msgspec.Struct, kw_only=True):
    """One attempt. `excerpt` is the beginning of the response, as text; `hint` is what to look at."""

    number: int
    started_ms: int
    duration_us: int
    status: int
    cause: str
    excerpt: str
    hint: str


class PayloadView(msgspec.Struct, kw_only=True):
    """What was to be sent. `content` is the JSON itself, on one line, or text, or base64, as `form` says; `cut`: its
    beginning."""

    form: str
    content: Any
    cut: bool


class DeadDocument(DeadView, kw_only=True):
    """All of it: what was done about it, the latest first, every attempt, and the payload with its headers."""

    received_ms: int
    acts: list[Act]
    tries: list[TryView]
    headers: dict[str, str]
    payload: PayloadView


class MarkView(msgspec.Struct, kw_only=True):
    """Who discarded what, and why."""

    id: str
    at_ms: int
    by: str
    why: str
    selection: dict[str, Any]


class SubscriptionCount(msgspec.Struct, kw_only=True):
    """How many are of a subscription, and how many of them are open."""

    id: str
    tenant: str
    count: int
    open: int


def dead_id(filed: Filed) -> str:
    """How it is named."""
    return f"{filed.partition}-{filed.offset}"


def parse_id(text: str) -> Place:
    """The place that an id names. ValueError."""
    match = DEAD_ID_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is no dead letter's id, such as 3-1207")
    return Place(int(match[1]), int(match[2]))


def within(selection: Selection) -> Within:
    """Where to look for what it selects."""
    only = selection.subscriptions[0] if len(selection.subscriptions) == 1 else None
    return Within(only, selection.since_ms or 0, selection.until_ms)


Wanted = Callable[[Filed], tuple[Act, ...] | None]


def wanted(judge: Judge, selection: Selection, state: DeadState | None) -> Wanted:
    """Of a letter that is selected and in this state (None: any): what was done about it. None for the others."""
    chosen, acts = judge.chosen(selection), judge.acts()

    def of(filed: Filed) -> tuple[Act, ...] | None:
        if not chosen(filed):
            return None
        done = acts(filed)
        return done if state in (None, state_of(done)) else None

    return of


def dead_view(judge: Judge, filed: Filed, done: tuple[Act, ...]) -> DeadView:
    """In short."""
    return DeadView(**_fields(judge, filed, done))


def dead_document(judge: Judge, filed: Filed, done: tuple[Act, ...], *, bytes_max: int | None = None) -> DeadDocument:
    """All of it; of the payload at most `bytes_max` (None: all)."""
    delivery = filed.letter.delivery
    tries = [
        TryView(
            number=number,
            started_ms=each.started_ms,
            duration_us=each.duration_us,
            status=each.status,
            cause=each.cause,
            excerpt=each.excerpt.decode("utf-8", "replace"),
            hint=attempt_hint(each.status, each.cause),
        )
        for number, each in enumerate(delivery.tries, start=delivery.attempt - len(delivery.tries) + 1)
    ]
    return DeadDocument(
        **_fields(judge, filed, done),
        received_ms=filed.letter.facts.received_ms,
        acts=list(done),
        tries=tries,
        headers=dict(delivery.headers),
        payload=payload_view(delivery.content_type, delivery.body, bytes_max),
    )


def payload_view(content_type: str, body: bytes, bytes_max: int | None) -> PayloadView:
    """The body as its type says: JSON as it stands there but on one line, text as text, anything else as base64."""
    media = content_type.partition(";")[0].strip().lower()
    cut = bytes_max is not None and len(body) > bytes_max
    shown = body[:bytes_max] if cut else body
    if _JSON.fullmatch(media) and not cut:
        try:
            orjson.loads(shown)
        except orjson.JSONDecodeError:
            pass
        else:
            return PayloadView(form="json", content=msgspec.Raw(on_one_line(shown)), cut=False)
    if _JSON.fullmatch(media) or _TEXT.fullmatch(media):
        try:
            # A character may be cut in two.
            text = shown.decode("utf-8", "ignore") if cut else shown.decode()
        except UnicodeDecodeError:
            pass
        else:
            return PayloadView(form="text", content=text, cut=cut)
    return PayloadView(form="base64", content=base64.b64encode(shown).decode(), cut=cut)


def mark_view(mark: DeadMark) -> MarkView:
    """As it is shown."""
    return MarkView(
        id=mark.id, at_ms=mark.at_ms, by=mark.by, why=mark.why, selection=msgspec.to_builtins(mark.selection)
    )


def _fields(judge: Judge, filed: Filed, done: tuple[Act, ...]) -> dict[str, Any]:
    letter, delivery, facts, last = filed.letter, filed.letter.delivery, filed.letter.facts, filed.letter.last
    status, cause = (last.status, last.cause) if last else (0, "")
    return {
        "id": dead_id(filed),
        "state": state_of(done),
        "dead_ms": letter.dead_ms,
        "reason": letter.reason,
        "detail": letter.detail,
        "subscription_id": delivery.subscription_id,
        "tenant": facts.tenant,
        "delivery_id": delivery.id,
        "event_id": facts.event_id,
        "event_type": facts.event_type,
        "subject": facts.subject,
        "event_time_ms": facts.time_ms,
        "attempts": delivery.attempt,
        "status": status,
        "cause": cause,
        "error_class": judge.error_class(filed),
        "hint": dead_hint(letter.reason, status, cause),
        "replay": replay_of(delivery),
        "content_type": delivery.content_type,
        "payload_bytes": len(delivery.body),
    }


class Tally:
    """Counts of many dead letters. Bounded by how many subscriptions there are."""

    def __init__(self) -> None:
        self.count = self.payload_bytes = 0
        self.states: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.error_classes: Counter[str] = Counter()
        self.oldest_ms = self.newest_ms = 0
        self._subscriptions: Counter[tuple[str, str]] = Counter()
        self._open: Counter[tuple[str, str]] = Counter()

    def add(self, judge: Judge, filed: Filed, done: tuple[Act, ...]) -> None:
        """One more."""
        letter, state = filed.letter, state_of(done)
        whose = letter.delivery.subscription_id, letter.facts.tenant
        self.count += 1
        self.payload_bytes += len(letter.delivery.body)
        self.states[state] += 1
        self.reasons[letter.reason] += 1
        self.error_classes[judge.error_class(filed)] += 1
        self._subscriptions[whose] += 1
        self._open[whose] += state == "open"
        self.oldest_ms = min(self.oldest_ms or letter.dead_ms, letter.dead_ms)
        self.newest_ms = max(self.newest_ms, letter.dead_ms)

    def subscriptions(self) -> list[SubscriptionCount]:
        """Those with the most, `NAMED_MAX` of them."""
        return [
            SubscriptionCount(id=id_, tenant=tenant, count=count, open=self._open[id_, tenant])
            for (id_, tenant), count in self._subscriptions.most_common(NAMED_MAX)
        ]
