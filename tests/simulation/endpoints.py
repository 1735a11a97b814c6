"""Endpoints with moods, and the sender that reaches them in virtual time.

A mood says how an endpoint reacts to a request; a script says which mood it is in until when. Answers may come after
the time-out, out of order, and more than once. This file decides nothing for the engine, and checks nothing.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from typing import Literal, get_args

import msgspec
import orjson

from connectors.memory import MemoryRoute, MemorySender
from schemas.delivery import REPLAY_HEADER
from schemas.endpoint_tls import EndpointTls
from schemas.post import PostDone, PostResult
from streams.ports import Route
from tests.simulation.kafka import at_ms
from tests.simulation.loop import Scheduler, VirtualLoop

Mood = Literal[
    "healthy", "slow", "hanging", "resetting", "failing", "dead", "gone", "limited", "flapping", "late", "doubled",
    "rejecting",
]  # fmt: skip
MOODS: tuple[Mood, ...] = get_args(Mood)

#: Moods in which an endpoint delivers as if nothing were wrong.
WELL = frozenset({"healthy", "doubled"})


#: Between a delivery's id and that of the replay that sends it again.
AGAIN = "~"


def run_id(delivery_id: str, replay: str) -> str:
    """What checkers know a delivery by: its id, and which replay sends it again. Each such run has its own attempts
    and its own end."""
    return f"{delivery_id}{AGAIN}{replay}" if replay else delivery_id


class Endpoint(msgspec.Struct):
    """One URL. `script` is (until this virtual second, mood), ascending; then the endpoint is healthy."""

    url: str
    script: list[tuple[float, Mood]]
    latency_s: float = 0.005

    def mood(self, now: float) -> Mood:
        """The mood of now."""
        return next((mood for until, mood in self.script if now < until), "healthy")


class Received(msgspec.Struct, frozen=True):
    """A POST that reached its endpoint."""

    at_s: float
    url: str
    webhook_id: str
    body: bytes
    worker: str


class PostStarted(msgspec.Struct, frozen=True):
    """A POST as the engine asked its sender for it."""

    at_s: float
    number: int
    worker: str
    url: str
    webhook_id: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    #: What is delivered with it (`run_id`): several in a batch.
    delivery_ids: tuple[str, ...]


class Internet:
    """All endpoints, and the way to them."""

    def __init__(self, scheduler: Scheduler, dice: random.Random, endpoints: Sequence[Endpoint]) -> None:
        self.scheduler = scheduler
        self.endpoints = {endpoint.url: endpoint for endpoint in endpoints}
        self.received: list[Received] = []
        self.on_post: list[Callable[[PostStarted], None]] = []
        #: (worker, when, webhook-id, whether it succeeded) of every answer that a worker was told.
        self.on_answer: list[Callable[[PostStarted, PostResult], None]] = []
        self._dice = dice

    def send(self, sender: SimSender, post: PostStarted) -> None:
        """A request leaves."""
        self.scheduler.after(self._dice.uniform(0.0005, 0.01), self._arrive, sender, post)

    def _arrive(self, sender: SimSender, post: PostStarted) -> None:
        if sender.loop.state == "dead" and self._dice.random() < 0.5:
            return
        endpoint = self.endpoints[post.url]
        dice = self._dice
        mood = endpoint.mood(self.scheduler.now)
        if mood == "flapping":
            mood = dice.choice(("healthy", "failing", "dead", "slow"))
        if mood != "dead":
            received = Received(self.scheduler.now, post.url, post.webhook_id, post.body, post.worker)
            self.received.append(received)
        latency = endpoint.latency_s * dice.uniform(0.5, 2)
        match mood:
            case "slow":
                latency = dice.uniform(0.2, 6)
            case "hanging":
                return
            case "late":
                latency = dice.uniform(1, 40)
            case "resetting" if dice.random() < 0.5:
                latency = 0.0
            case _:
                pass
        result = self._result(mood, latency)
        self.scheduler.after(latency, self._answer, sender, post.number, result)
        if mood == "doubled":
            self.scheduler.after(latency + dice.uniform(0, 1), self._answer, sender, post.number, result)

    def _result(self, mood: Mood, latency_s: float) -> PostResult:
        dice = self._dice
        duration_us = int(latency_s * 1e6)
        match mood:
            case "healthy" | "slow" | "late" | "doubled":
                return PostResult(dice.choice((200, 202, 204)), duration_us)
            case "resetting":
                cause = dice.choice(("reset", "malformed_response"))
                return PostResult(0, duration_us, cause, "The connection ended.")
            case "dead":
                return PostResult(0, duration_us, "connect_failed", "Nobody listens there.")
            case "gone":
                return PostResult(410, duration_us)
            case "rejecting":
                return PostResult(400, duration_us, excerpt=b"what is this?")
            case "limited" if dice.random() < 0.3:
                return PostResult(503, duration_us, allowed_rate="30")
            case "limited":
                seconds = dice.choice((1, 7, 60, 300))
                when = formatdate(at_ms(self.scheduler.now) / 1000 + seconds, usegmt=True)
                return PostResult(429, duration_us, retry_after=dice.choice((str(seconds), when, "soon")))
            case _:
                return PostResult(dice.choice((500, 502, 503)), duration_us, excerpt=b"no")

    def _answer(self, sender: SimSender, number: int, result: PostResult) -> None:
        if sender.loop.state != "dead":
            sender.loop.call_soon(sender.answer, number, result)


class SimSender:
    """The `Sender` port: refuses what `MemorySender` refuses, times out by itself."""

    def __init__(self, loop: VirtualLoop, internet: Internet, worker: str) -> None:
        self.loop = loop
        self.worker = worker
        self._internet = internet
        self._routes = MemorySender(lambda posted: None)
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[PostDone, PostStarted]] = {}

    def route(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout_s: float,
        tls: EndpointTls | None = None,
        *,
        method: str = "POST",
    ) -> MemoryRoute:
        """See the port."""
        return self._routes.route(url, headers, timeout_s, tls, method=method)

    def post(self, route: Route, headers: Sequence[tuple[str, str]], body: bytes, done: PostDone) -> None:
        """See the port."""
        assert isinstance(route, MemoryRoute)
        number = next(self._numbers)
        webhook_id = next((text for name, text in headers if name == "webhook-id"), "")
        now = self._internet.scheduler.now
        ids: tuple[str, ...] = (webhook_id,)
        if webhook_id.startswith("bat_"):
            ids = tuple(event["id"] for event in orjson.loads(body)["events"])
        replay = next((text for name, text in headers if name == REPLAY_HEADER), "")
        ids = tuple(run_id(each, replay) for each in ids)
        post = PostStarted(now, number, self.worker, route.url, webhook_id, tuple(headers), body, ids)
        self._waiting[number] = (done, post)
        for listener in self._internet.on_post:
            listener(post)
        timeout = PostResult(0, int(route.timeout_s * 1e6), "timeout", "No answer in time.")
        self.loop.call_later(route.timeout_s, self.answer, number, timeout)
        self._internet.send(self, post)

    def answer(self, number: int, result: PostResult) -> None:
        """The first answer counts; whatever comes later is for nobody."""
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            done, post = waiting
            for listener in self._internet.on_answer:
                listener(post, result)
            done(result)

    @property
    def in_flight(self) -> int:
        """POSTs without an answer."""
        return len(self._waiting)

    async def close(self) -> None:
        """See the port."""
        for number in list(self._waiting):
            self.answer(number, PostResult(0, 0, "shutdown", "The sender was closed while the request was in flight."))
