"""A seeded world: the cluster, the endpoints, the workers, and what goes wrong, until everything has come to its end.

This file makes things happen; whether what comes of it is right is for the checkers to say.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections import deque
from typing import Any

import msgspec

from schemas import codec
from schemas.codec import put_string
from schemas.delivery import FRESH, REPLAY_HEADER, Delivery, encode_delivery, encode_fresh, encode_tail
from schemas.endpoint import EndpointState, encode_state, url_hash
from schemas.errors import FencedError
from schemas.event import Event
from schemas.frame import Out
from schemas.ids import delivery_id
from schemas.post import PostResult
from schemas.subscription import Subscription
from schemas.topics import Topics
from streams.counters import Counters
from tests.simulation.books import Books
from tests.simulation.checkers.all import all_checkers
from tests.simulation.checkers.base import Checkers, ViolationError
from tests.simulation.endpoints import Endpoint, Internet, PostStarted
from tests.simulation.engine import EVENT, SCHEMAS, WIRE, Engine, delivery_in
from tests.simulation.kafka import EPOCH_MS, KafkaSettings, SimKafka, Transaction, TroubleError, at_ms
from tests.simulation.loop import Scheduler, StuckError
from tests.simulation.plan import Fault, Plan, PlannedEvent, PlannedReplay, draw
from tests.simulation.worker import DELIVERY, SimWorker

#: Virtual seconds after mending in which everything must have come to its end, beside the longest retry schedule.
PATIENCE_S = 7_200.0
#: How long the world is watched when nothing is left to do.
AFTERWARDS_S = 90.0
TRACE_LINES = int(os.environ.get("SIMULATION_TRACE", "60"))


class World:
    """One run of one plan."""

    def __init__(self, plan: Plan, engine: type[Engine], checkers: Checkers) -> None:
        self.plan = plan
        self.topics = Topics(partitions=plan.partitions)
        self.scheduler = Scheduler()
        self.dice = random.Random(f"run {plan.seed}")
        self.kafka = SimKafka(
            self.scheduler,
            self.dice,
            KafkaSettings(
                partitions={spec.name: spec.partitions for spec in self.topics.specs()},
                heartbeat_s=plan.heartbeat_s,
                fetch_s=plan.fetch_s,
                session_s=plan.session_s,
            ),
        )
        self.internet = Internet(self.scheduler, self.dice, plan.endpoints)
        self.engine = engine(self.topics, plan.bounds, at_least_once=plan.at_least_once)
        self.books = Books(self.kafka, self.topics, at_least_once=plan.at_least_once)
        self.checkers = checkers
        #: Subscriptions as their owners have them, by id.
        self.subscriptions: dict[str, Subscription] = {}
        #: Their endpoints' health, as last written, by subscription id.
        self.states: dict[str, EndpointState] = {}
        #: Workers that were started, the living and the dead.
        self.workers: list[SimWorker] = []
        self.healed = False
        self.trace: deque[tuple[Any, ...]] = deque(maxlen=TRACE_LINES)
        self._events_written = 0
        self._replays_written = 0
        self._wanted = 0  # workers that should run
        self._trouble_until_s = 0.0
        self._down = 0  # outages under way
        self._over = False
        self.kafka.on_commit.append(self._on_commit)
        self.internet.on_post.append(self._on_post)
        self.internet.on_answer.append(self._on_answer)

    # --- the run ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Play the plan to its end. ViolationError with the seed's story when a checker objects."""
        level = logging.getLogger("streams")
        level.setLevel(logging.CRITICAL)  # of thousands of worlds; what is printed is a failure's story
        try:
            self._play()
        except AssertionError as error:
            story = "\n".join((self.plan.describe(), *map(_line, self.trace)))
            replay = f"SIMULATION_SEED={self.plan.seed} pytest tests/simulation"
            violation = ViolationError(f"{error}\n\n{story}\n\nReplay: {replay}")
            violation.checker = getattr(error, "checker", "")
            raise violation from error
        finally:
            level.setLevel(logging.NOTSET)
            for worker in self.workers:
                worker.loop.bury()

    def _play(self) -> None:
        plan, scheduler = self.plan, self.scheduler
        self._tell("begin", self)
        for subscription in plan.subscriptions:
            self.set_subscription(subscription)
        for number in range(plan.workers):
            scheduler.after(self.dice.uniform(0, 2), self._want_worker, f"w{number}")
        for event in plan.events:
            scheduler.after(event.at_s, self._write_event, event)
        for replay in plan.replays:
            scheduler.after(replay.at_s, self._replay, replay)
        for fault in plan.faults:
            scheduler.after(fault.at_s, self._strike, fault)
        scheduler.after(plan.heal_s, self._heal)
        schedules_s = max(sum(subscription.retry_schedule_ms) for subscription in plan.subscriptions) / 1000
        with contextlib.suppress(StuckError):  # what has no end then is found below
            if scheduler.run(self._all_ended, seconds_max=plan.heal_s + 1.2 * schedules_s + PATIENCE_S):
                self._over = True
                self._watch()
        if self._over and plan.encore:
            for worker in self.running:
                worker.stop()
            self._watch()
            self._start_worker("encore")
            self._watch()
        self._tell("at_end")

    def _watch(self) -> None:
        with contextlib.suppress(StuckError):  # nothing is left to do
            self.scheduler.run(lambda: False, seconds_max=self.scheduler.now + AFTERWARDS_S)

    def _all_ended(self) -> bool:
        plan = self.plan  # some are sent after the world was mended
        written = (self._events_written, self._replays_written) == (len(plan.events), len(plan.replays))
        return self.healed and written and not self.books.pending and self.books.events_finished == self._events_written

    @property
    def running(self) -> list[SimWorker]:
        """Workers that are neither dead nor frozen."""
        return [worker for worker in self.workers if worker.loop.state == "running"]

    def given_up_on(self, worker: str) -> bool:
        """Whether the delivery group has given up on a worker, which may not know it yet."""
        return worker not in self.kafka.groups[DELIVERY].members

    @property
    def counters(self) -> Counters:
        """What the engine counted, in all workers that ever ran."""
        return sum((worker.counters for worker in self.workers), Counters())

    # --- what happens -----------------------------------------------------------------------------

    def note(self, *what: object) -> None:
        """For the story of a failure."""
        self.trace.append((self.scheduler.now, *what))

    def _write_event(self, event: PlannedEvent) -> None:
        fields = {
            "id": event_id(event.number),
            "type": event.type,
            "time": EPOCH_MS,
            "data": b'{"number":%d}' % event.number,
            "subject": event.subject,
        }
        value = b"\x00nonsense" if event.broken else codec.encode(SCHEMAS.event, EVENT, fields)
        partition = event.number % self.plan.partitions
        stored = self.kafka.append(self.topics.events, partition, None, value)
        self._events_written += 1
        self.books.event_s[event.number] = self.scheduler.now
        self.note("event", event.number, event.type, stored)
        self._tell("on_event", event, stored)

    def _replay(self, replay: PlannedReplay) -> None:
        """Send again what has ended, under the id and to the partition of the first time."""
        dice = random.Random(f"{self.plan.seed} {replay.id}")
        books, topics = self.books, self.topics
        ended = [run for run in books.run_of.values() if run in books.ended and dice.random() < replay.part]
        chosen = [msgspec.structs.replace(books.deliveries[run], headers=()) for run in ended]
        to = dice.choice(self.plan.subscriptions).id
        for event in replay.old:
            self.books.event_s[event.number] = self.scheduler.now
            chosen.append(_old(event, to))
        records: list[Out] = []
        for one in chosen:
            marked = msgspec.structs.replace(one, headers=((REPLAY_HEADER, replay.id),))
            records.append((topics.replay, one.subscription_id.encode(), encode_delivery(WIRE, marked), -1, None))
        try:
            if not self.kafka.answering:
                raise TroubleError("no broker answers")
            self.kafka.write(replay.id, records)
        except TroubleError:
            self.scheduler.after(1.0, self._replay, replay)
            return
        self._replays_written += 1
        self.note("replay", replay.id, len(ended), len(replay.old))

    def set_subscription(self, subscription: Subscription | str) -> None:
        """An owner creates, changes or (with an id) deletes a subscription; workers hear of it a little later."""
        if isinstance(subscription, str):
            del self.subscriptions[subscription]
            id_, now = subscription, None
        else:
            self.subscriptions[subscription.id] = subscription
            id_, now = subscription.id, subscription
        self.note("subscription", id_, now)
        self._tell("on_subscription", self.scheduler.now, id_, now)
        for worker in self.workers:
            if worker.loop.state != "dead":
                worker.tell(subscription, self.scheduler.now + self.dice.uniform(0, self.plan.table_lag_s))

    def _want_worker(self, id_: str) -> None:
        self._wanted += 1
        self._start_worker(id_)

    def _start_worker(self, id_: str) -> None:
        name = f"{id_}.{len(self.workers)}"
        worker = SimWorker(
            self.scheduler,
            self.kafka,
            self.internet,
            self.engine,
            self.dice,
            id_=id_ if self.plan.stable_ids else name,
            name=name,
            drain_s=self.plan.drain_s,
            subscriptions=list(self.subscriptions.values()),
            states=list(self.states.values()),
            on_exit=self._on_exit,
        )
        self.workers.append(worker)
        self.note("start", name)

    def _on_exit(self, worker: SimWorker, error: BaseException | None) -> None:
        """Its main coroutine has returned; a supervisor starts another one."""
        self.note("exit", worker.name, error)
        worker.loop.kill()
        if error is not None and not isinstance(error, FencedError):
            self.scheduler.failure = ViolationError(f"{worker.name} ended by itself: {error!r}")
            self.scheduler.failure.__cause__ = error
        self.scheduler.after(worker.replaced_after_s, self._replace, worker)

    def _replace(self, worker: SimWorker) -> None:
        if not self._over and len([one for one in self.workers if one.loop.state != "dead"]) < self._wanted:
            self._start_worker(worker.id.split(".")[0])

    # --- what goes wrong --------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        self.note("fault", fault.kind, fault.target, fault.seconds, fault.steps)
        match fault.kind:
            case "crash" | "freeze" | "stop" | "evict":
                if self.running:
                    getattr(self, f"_{fault.kind}")(self.running[fault.target % len(self.running)], fault)
            case "join":
                self._want_worker(f"j{len(self.workers)}")
            case "outage":
                self._down += 1
                self.kafka.go_down()
                self.scheduler.after(fault.seconds, self._end_outage)
            case "trouble":
                self.kafka.trouble = 0.3
                self._trouble_until_s = max(self._trouble_until_s, self.scheduler.now + fault.seconds)
                self.scheduler.after(fault.seconds, self._end_trouble)
            case _:
                self._change_subscription(fault)

    def _crash(self, worker: SimWorker, fault: Fault) -> None:
        def die() -> None:
            self.note("dies", worker.name)
            worker.loop.kill()
            self.kafka.lose()
            self.scheduler.after(self.plan.session_s, self._expire, worker)
            self.scheduler.after(fault.seconds, self._replace, worker)

        worker.loop.fuse, worker.loop.on_fuse = fault.steps, die

    def _freeze(self, worker: SimWorker, fault: Fault) -> None:
        def freeze() -> None:
            self.note("freezes", worker.name)
            worker.loop.freeze()
            worker.frozen_since_s = since = self.scheduler.now
            self.scheduler.after(self.plan.session_s, self._expire_if_frozen, worker, since)
            self.scheduler.after(fault.seconds, self._thaw, worker)

        worker.loop.fuse, worker.loop.on_fuse = fault.steps, freeze

    def _expire_if_frozen(self, worker: SimWorker, since_s: float) -> None:
        if worker.loop.state == "frozen" and worker.frozen_since_s == since_s:
            self.note("session over", worker.name)
            self._expire(worker)

    def _thaw(self, worker: SimWorker) -> None:
        if worker.loop.state == "frozen":
            self.note("thaws", worker.name)
            worker.loop.thaw()
            for group, member_id, _ in worker.members:
                self.scheduler.after(self.dice.uniform(0, 1), self.kafka.heartbeat, group, member_id)

    def _stop(self, worker: SimWorker, fault: Fault) -> None:
        worker.replaced_after_s = fault.seconds
        worker.stop()

    def _evict(self, worker: SimWorker, fault: Fault) -> None:
        """Its heartbeats do not get through."""
        self._expire(worker)

    def _expire(self, worker: SimWorker) -> None:
        for group, member_id, consumer in worker.members:
            self.kafka.expire(group, member_id, consumer)

    def _end_outage(self) -> None:
        self._down -= 1
        if self._down == 0:
            self.kafka.come_up()

    def _end_trouble(self) -> None:
        if self.scheduler.now >= self._trouble_until_s:
            self.kafka.trouble = 0.0

    def _change_subscription(self, fault: Fault) -> None:
        ids = sorted(self.subscriptions)
        if fault.kind == "create":
            number = len(self.internet.endpoints)
            url = f"https://e{number}.example/hook"
            self.internet.endpoints[url] = Endpoint(url, [])
            model = self.plan.subscriptions[0]
            self.set_subscription(msgspec.structs.replace(model, id=f"sub_{number}", url=url, event_types=("*",)))
            return
        if not ids:
            return
        subscription = self.subscriptions[ids[fault.target % len(ids)]]
        match fault.kind:
            case "pause":
                self.set_subscription(msgspec.structs.replace(subscription, state="paused"))
            case "resume":
                self.set_subscription(msgspec.structs.replace(subscription, state="active"))
            case "disable":
                self.set_subscription(msgspec.structs.replace(subscription, state="disabled"))
            case "delete":
                self.set_subscription(subscription.id)
            case _:  # move: the endpoint has a new address
                url = f"{subscription.url}/{len(self.internet.endpoints)}"
                self.internet.endpoints[url] = msgspec.structs.replace(
                    self.internet.endpoints[subscription.url], url=url
                )
                self.set_subscription(msgspec.structs.replace(subscription, url=url))

    def _heal(self) -> None:
        """From now on nothing goes wrong, and somebody is there to work."""
        self.note("healed")
        self.healed = True
        self.kafka.trouble = 0.0
        for worker in self.workers:
            worker.loop.fuse = None
            self._thaw(worker)
        for subscription in list(self.subscriptions.values()):
            if subscription.state != "active":
                self.set_subscription(msgspec.structs.replace(subscription, state="active"))
        for state in list(self.states.values()):
            if state.disabled_ms:
                self._enable(state.subscription_id)
        if not self.running or not self._wanted:
            self._want_worker("healer")

    # --- telling ----------------------------------------------------------------------------------

    def _on_commit(self, transaction: Transaction) -> None:
        commit = self.books.read(transaction)
        self.note("commit", commit)
        for one in commit.written:
            if one.state is not None:
                self._on_state(one.state)
        self._tell("on_commit", commit)

    def _on_state(self, state: EndpointState) -> None:
        """The table of endpoints took a record; workers hear of it a little later."""
        self.note("state", state)
        self.states[state.subscription_id] = state
        for worker in self.workers:
            if worker.loop.state != "dead":
                worker.tell_state(state, self.scheduler.now + self.dice.uniform(0, self.plan.table_lag_s))
        if self.healed and state.disabled_ms:
            self.scheduler.after(1.0, self._enable, state.subscription_id)

    def _enable(self, subscription_id: str) -> None:
        """The owner has mended an endpoint that was disabled, as `distributary endpoints enable` says it."""
        subscription = self.subscriptions.get(subscription_id)
        if subscription is not None and self.states[subscription_id].disabled_ms:
            state = EndpointState(
                subscription_id=subscription_id,
                url_hash=url_hash(subscription.url),
                changed_ms=at_ms(self.scheduler.now),
            )
            value = encode_state(codec.wire_header(SCHEMAS.endpoint_state), state)
            self.kafka.append(self.topics.endpoints_state, 0, subscription_id.encode(), value)
            self._on_state(state)

    def _on_post(self, post: PostStarted) -> None:
        self.note("post", post.worker, post.number, post.webhook_id)
        self._tell_inside("on_post", post)

    def _on_answer(self, post: PostStarted, result: PostResult) -> None:
        self.note("answer", post.worker, post.number, result.status, result.cause)
        self._tell_inside("on_answer", post, result)

    def _tell(self, what: str, *args: object) -> None:
        for checker in self.checkers:
            try:
                getattr(checker, what)(*args)
            except ViolationError as violation:
                violation.checker = type(checker).__name__
                raise

    def _tell_inside(self, what: str, *args: object) -> None:
        """A violation found inside a process ends the run, not the process."""
        try:
            self._tell(what, *args)
        except ViolationError as violation:
            self.scheduler.failure = self.scheduler.failure or violation


def _old(event: PlannedEvent, subscription_id: str) -> Delivery:
    """What fan-out made of an event of before."""
    data = b'{"number":%d}' % event.number
    made = Event(event_id(event.number), event.type, "default", EPOCH_MS, data, event.subject)
    tail = encode_tail(made, EPOCH_MS, "application/json", b'{"type":"%b","data":%b}' % (event.type.encode(), data))
    key = put_string(subscription_id) + FRESH
    return delivery_in(encode_fresh(WIRE.v1, delivery_id(made.id, subscription_id), key, tail))


def event_id(number: int) -> str:
    """Of a planned event."""
    return f"evt_{number}"


def _line(what: tuple[Any, ...]) -> str:
    now, kind, *rest = what
    if kind == "commit":
        commit = rest[0]
        finished = " ".join(map(repr, commit.finished))
        written = " ".join(
            f"{one.stored!r}={one.delivery_id[-6:]}"
            + (f":{one.fields['outcome']}#{one.fields['attempt']}" if one.kind == "attempt" else "")
            + (f"#{one.delivery.attempt}" if one.delivery is not None else "")
            for one in commit.written
        )
        return f"{now:12.3f} commit {commit.worker} {commit.group}: finished [{finished}] wrote [{written}]"
    return f"{now:12.3f} {kind} " + " ".join(str(each) for each in rest)


def run_seed(seed: int, engine: type[Engine] = Engine, checkers: Checkers | None = None) -> World:
    """The world of a seed, played to its end. ViolationError when a promise is broken."""
    world = World(draw(seed), engine, all_checkers() if checkers is None else checkers)
    world.run()
    return world
