"""Replays: orders looked at, counted by a dry run, and run: deliveries written again with the progress that they make.

Each order is a *job* while it is counted or runs. A job reads the spans of its source one after the other, and what it
makes is written in one transaction with how far it has come; so whoever goes on after a crash neither leaves out nor
doubles a delivery. Counting is the same without writing them. Jobs take turns, a transaction each. This stage sees
ports; only one process may run it at a time, which its publisher's transactional id makes sure of.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from schemas import codec
from schemas.endpoint import Operation
from schemas.errors import RecordTooLargeError
from schemas.frame import Out, Record
from schemas.replay import ENDED, UNSENT_MAX, Progress, Replay, Span, State, Unsent, encode_progress
from streams.core.dead import already_sent
from streams.core.limits import TokenBucket
from streams.core.replay import DISORDER_MS, Candidate, next_state
from streams.counters import Counters
from streams.ports import Clock, Extents, ProgressTable, Publisher, ReplayTable, SpanReader
from streams.replay_sources import Maker

logger = logging.getLogger(__name__)

#: Records of a job that are looked at before the event loop gets a turn.
CHUNK = 32
IDLE_S = 5.0
#: How long the end of a log that seems to be nearer than it was is given to come back.
AGAIN_S = 0.5
GONE = "subscriptions that are gone; choose fewer, by subscription or time"


class ReplayLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Of a transaction: deliveries (those of one event may be more), their bytes, and records read. Of the stage: jobs.

    What is only read is noted every `note_s` seconds. A subscription that a replay waits for counts as active
    `settle_s` after it was first seen so: by then every worker that fans out knows it, and no event is missed. One that
    there is not is waited for `missing_s`: it may have been written with the order.
    """

    deliveries_max: int = 5_000
    bytes_max: int = 16 << 20
    read_max: int = 10_000
    jobs_max: int = 16
    note_s: float = 2.0
    settle_s: float = 5.0
    missing_s: float = 60.0


class _Job:
    """An order that is counted or runs: what it has in hand."""

    __slots__ = ("again", "bucket", "held", "noted_s", "order", "reader", "sent")

    def __init__(self, order: Replay, maker: Maker, reader: SpanReader, now_s: float) -> None:
        self.order = order
        #: Whether another replay has sent a dead letter; looked at anew in each turn.
        self.sent: Callable[[Candidate], bool] = lambda _: False
        self.again = maker.again(order, self._is_sent)
        self.reader = reader
        self.held: deque[Record] = deque()  # read, and not looked at yet, of the span that is being read
        self.noted_s = now_s
        self.bucket = TokenBucket(order.rate_max, 1) if order.rate_max else None

    def _is_sent(self, it: Candidate) -> bool:
        return self.sent(it)


class _Step(msgspec.Struct):
    """What a job has made in one turn."""

    spans: list[Span]
    outs: list[Out] = []
    read: int = 0
    deliveries: int = 0
    size: int = 0
    skipped: int = 0
    unsent: dict[tuple[str, int, int], Unsent] = {}


class Replaying:
    """The stage; made anew each time that its process becomes the active one."""

    def __init__(
        self,
        maker: Maker,
        orders: ReplayTable,
        progress: ProgressTable,
        reader: Callable[[str], SpanReader],
        extents: Extents,
        publisher: Publisher,
        clock: Clock,
        counters: Counters,
        progress_schema: int,
        limits: ReplayLimits = ReplayLimits(),  # noqa: B008 - immutable
    ) -> None:
        """Both tables hold all that was committed before the publisher took its id. `reader` makes one of a topic."""
        self._maker = maker
        self._orders = orders
        self._written = progress
        self._reader = reader
        self._extents = extents
        self._publisher = publisher
        self._clock = clock
        self._counters = counters
        self._header = codec.wire_header(progress_schema)
        self._limits = limits
        self._open: dict[str, Replay] = {}
        #: How far each open one has come: never behind what is written.
        self.progress: dict[str, Progress] = {}
        self._ended: dict[str, Progress] = {}
        self._jobs: dict[str, _Job] = {}
        self._active_s: dict[str, float] = {}  # when a subscription that is waited for was first seen active
        self._changed = asyncio.Event()
        self._wait_s = IDLE_S

    async def run(self) -> None:
        """Until cancelled. FencedError when another process is active."""
        for order in self._orders:
            self.order_changed(None, order)
        try:
            while True:
                self._changed.clear()
                self._wait_s = IDLE_S
                if not await self._round():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._wait_s):
                            await self._changed.wait()
        finally:
            for job in list(self._jobs.values()):
                await self._drop(job)

    def order_changed(self, old: Replay | None, new: Replay | None) -> None:
        """For the table of orders: one was made, changed or removed."""
        if new is None:
            assert old is not None  # something changed
            self._forget(old.id)
        elif new.id not in self._ended and not self._is_written_as_ended(new.id):
            self._open[new.id] = new
            progress = self.progress.get(new.id) or self._written.get(new.id)
            if progress is not None:
                self.progress[new.id] = progress
        self._changed.set()

    def subscription_changed(self) -> None:
        """For the table of subscriptions: what was waited for may have come."""
        self._changed.set()

    def _is_written_as_ended(self, order_id: str) -> bool:
        progress = self._written.get(order_id)
        return progress is not None and progress.state in ENDED

    def _forget(self, order_id: str) -> None:
        self._open.pop(order_id, None)
        self.progress.pop(order_id, None)
        self._active_s.pop(order_id, None)

    # --- turns ------------------------------------------------------------------------------------

    async def _round(self) -> bool:
        """A turn for each order that has something to do; whether one had."""
        worked = False
        places = self._limits.jobs_max
        for order in sorted(self._open.values(), key=lambda each: (each.created_ms, each.id)):
            progress = self.progress.get(order.id)
            state = next_state(
                order.wanted,
                None if progress is None else progress.state,
                pending=self._is_pending(order, progress),
                finished=progress is not None and all(span.position >= span.end for span in progress.spans),
            )
            if state in ("counting", "running"):
                places -= 1
                if places < 0:  # its turn comes when others are over
                    continue
            try:
                worked |= await self._turn(order, progress, state)
            except RecordTooLargeError as error:
                await self._enter(order, self.progress.get(order.id), "failed", str(error))
        for job in [job for name, job in self._jobs.items() if name not in self._open]:
            await self._drop(job)  # the order was removed
        for name in self.progress.keys() - self._open.keys():
            del self.progress[name]
        return worked

    async def _turn(self, order: Replay, progress: Progress | None, state: State) -> bool:
        if progress is None or progress.state != state:
            await self._enter(order, progress, state)
            return True
        if state == "counting":
            return await self._count(await self._job(order, progress), progress)
        if state == "running":
            job = await self._job(order, progress)
            return await self._send(job, self.progress.get(order.id, progress))  # removed meanwhile, it is not there
        if state == "waiting":
            return await self._give_up_missing(order, progress)
        return False

    async def _give_up_missing(self, order: Replay, progress: Progress) -> bool:
        (name,) = order.selection.subscriptions
        since_ms = self._clock.now_ms() - progress.started_ms
        if self._maker.table.get(name) is not None or since_ms < self._limits.missing_s * 1_000:
            return False
        await self._enter(order, progress, "failed", f"there is no subscription {name}")
        return True

    def _is_pending(self, order: Replay, progress: Progress | None) -> bool:
        """Whether its only subscription may not be sent anything yet, or not all that fan out may know it."""
        chosen = order.selection
        waits = progress is None or progress.state == "waiting"
        if not waits or chosen.source != "events" or len(chosen.subscriptions) != 1:
            return False
        (name,) = chosen.subscriptions
        subscription = self._maker.table.get(name)
        if subscription is None or subscription.unverified:
            self._active_s.pop(order.id, None)
            return True
        settle_s = self._limits.settle_s
        changed_ms = max(subscription.created_ms, subscription.updated_ms)
        if progress is None and changed_ms + settle_s * 2_000 < order.created_ms:
            return False  # it was there long before
        now_s = self._clock.monotonic()
        left_s = self._active_s.setdefault(order.id, now_s) + settle_s - now_s
        if left_s > 0:
            self._wait_s = min(self._wait_s, left_s)
        return left_s > 0

    # --- states -----------------------------------------------------------------------------------

    async def _enter(self, order: Replay, before: Progress | None, state: State, detail: str = "") -> None:
        """Write that it is in this state now, with what begins or ends by that."""
        now_ms = self._clock.now_ms()
        progress = before or Progress(id=order.id, state=state, started_ms=now_ms)
        changes: dict[str, object] = {"state": state}
        if state == "counting":
            changes["spans"] = await self._spans(order)
        elif progress.state == "counting":  # the run begins where the count began; without one, nothing was delivered
            changes |= {"spans": tuple(_again(span) for span in progress.spans), "read": 0, "skipped": 0}
        if detail:
            changes["detail"] = detail
        outs: list[Out] = []
        if state in ENDED:
            changes["finished_ms"] = now_ms
        progress = msgspec.structs.replace(progress, **changes)
        if state in ENDED:
            operation = Operation(
                kind="replay.finished",
                subscription_id="",
                tenant=order.selection.tenant or "",
                at_ms=now_ms,
                reason=state,
                detail=progress.detail,
                count=progress.sent,
                replay_id=order.id,
            )
            outs.append(self._maker.records.operation(operation))
        await self._write(progress, outs)
        logger.info("replay %s is %s; %s sent, %s counted", order.id, state, progress.sent, progress.counted)
        if job := self._jobs.get(order.id):
            await self._drop(job)
        if state in ENDED:
            # Until the table says so too, or a change of the order would have it begin again.
            self._ended = {name: it for name, it in self._ended.items() if not self._is_written_as_ended(name)}
            self._ended[order.id] = progress
            self._forget(order.id)

    async def _spans(self, order: Replay) -> tuple[Span, ...]:
        """From the first record that may be selected to the last one that is there."""
        selection = order.selection
        topic = self._maker.topic(selection)
        until_ms = None if selection.until_ms is None else selection.until_ms + DISORDER_MS
        found = await self._extents(topic, selection.since_ms, until_ms)
        if order.starts:
            asked = {place.partition: place.offset for place in order.starts}
            now = {partition: start for partition, start, _ in await self._extents(topic, order.created_ms, None)}
            found = [(name, max(start, min(asked.get(name, now[name]), end)), end) for name, start, end in found]
        spans = [Span(topic, partition, start, end, start) for partition, start, end in found]
        if selection.places:  # no further than where they stand
            spans = [
                _around(span, [p.offset for p in selection.places if p.partition == span.partition]) for span in spans
            ]
        return tuple(spans)

    async def _job(self, order: Replay, progress: Progress) -> _Job:
        job = self._jobs.get(order.id)
        if job is None:
            reader = self._reader(self._maker.topic(order.selection))
            job = self._jobs[order.id] = _Job(order, self._maker, reader, self._clock.monotonic())
            if progress.state == "running":
                await self._look_for_gaps(order, progress)
        elif job.order is not order:  # changed: its rate may be another
            if job.order.rate_max != order.rate_max:
                job.bucket = TokenBucket(order.rate_max, 1) if order.rate_max else None
            job.order = order
        return job

    async def _look_for_gaps(self, order: Replay, progress: Progress) -> None:
        """Say what retention has removed since the spans were fixed; it is gone."""
        starts = {partition: start for partition, start, _ in await self._extents(_topic(progress), None, None)}
        gone = sum(max(0, min(starts.get(s.partition, 0), s.end) - s.position) for s in progress.spans)
        if gone:
            detail = f"retention has removed {gone} offsets of {_topic(progress)} before they were read"
            logger.error("replay %s: %s", order.id, detail)
            self.progress[order.id] = msgspec.structs.replace(progress, detail=detail)

    async def _drop(self, job: _Job) -> None:
        del self._jobs[job.order.id]
        await job.reader.close()

    # --- work -------------------------------------------------------------------------------------

    async def _count(self, job: _Job, progress: Progress) -> bool:
        step = await self._read_on(job, progress, self._limits.deliveries_max)
        progress = _advanced(progress, step)
        progress = msgspec.structs.replace(
            progress,
            counted=progress.counted + step.deliveries,
            counted_bytes=progress.counted_bytes + step.size,
        )
        await self._note(job, progress)
        return step.read > 0 or _is_read(progress)

    async def _send(self, job: _Job, progress: Progress) -> bool:
        most, bucket = self._limits.deliveries_max, job.bucket
        if bucket is not None:
            wait_s = bucket.wait_s(self._clock.monotonic())
            if wait_s > 0:
                self._wait_s = min(self._wait_s, wait_s)
                return False
            most = min(most, max(1, int(bucket.rate_per_s / 2)))  # then it waits for half a second
        step = await self._read_on(job, progress, most)
        unsent = _all_unsent(progress, step)
        if len(unsent) > UNSENT_MAX:
            await self._enter(job.order, progress, "failed", f"its dead letters are of more than {UNSENT_MAX:,} {GONE}")
            return True
        progress = _advanced(progress, step)
        detail = progress.detail or _missing(unsent)
        progress = msgspec.structs.replace(progress, sent=progress.sent + step.deliveries, unsent=unsent, detail=detail)
        if not step.outs:
            await self._note(job, progress)
            return step.read > 0 or _is_read(progress)
        await self._write(progress, step.outs)
        job.noted_s = self._clock.monotonic()
        self._counters["replay_sent"] += step.deliveries
        if bucket is not None:
            for _ in range(step.deliveries):
                bucket.take(job.noted_s)
        return True

    async def _read_on(self, job: _Job, progress: Progress, most: int) -> _Step:
        """Read and make until there are so many, or a bound is met, or nothing is left."""
        limits, step = self._limits, _Step(list(progress.spans))
        at = 0
        if job.order.selection.source == "dead" and not job.order.again:
            job.sent = already_sent(self._maker.topics.dead, self._others(job.order))
        while step.deliveries < most and step.size < limits.bytes_max and step.read < limits.read_max:
            while at < len(step.spans) and step.spans[at].position >= step.spans[at].end:
                at += 1
            if at == len(step.spans):
                break
            span = step.spans[at]
            if not job.held:
                step.spans[at] = span = await self._fetch(job, span)
                if not job.held:
                    if span.position < span.end:  # tried again, in a moment
                        self._wait_s = min(self._wait_s, AGAIN_S)
                        break
                    continue
            record = job.held.popleft()
            made = await job.again(record, span.partition)
            step.spans[at] = msgspec.structs.replace(span, position=record.offset() + 1)
            step.read += 1
            step.outs += made.records
            step.deliveries += made.deliveries
            step.size += made.size
            step.skipped += made.skipped
            if (unsent := made.unsent) is not None:
                step.unsent[unsent.subscription_id, unsent.partition, unsent.start] = unsent
            if step.read % CHUNK == 0:
                await asyncio.sleep(0)
        return step

    def _others(self, order: Replay) -> Iterator[tuple[Replay, Progress | None]]:
        """All other replays, and how far they have come. This process alone runs them, so nothing is missed."""
        for other in self._orders:
            if other.id != order.id:
                yield other, self.progress.get(other.id) or self._ended.get(other.id) or self._written.get(other.id)

    async def _fetch(self, job: _Job, span: Span) -> Span:
        """More records of the span into the job's hands; the span is at its end when there are none."""
        records = await job.reader.read(span.partition, span.position)
        job.held.extend(record for record in records if record.offset() < span.end)
        if job.held:
            return span
        # Its last offsets hold no record (markers of transactions), or retention has taken them. But where the log
        # seems to end before the span does, a broker is behind: nothing is concluded from that.
        beyond = bool(records) or job.reader.reached(span.partition) >= span.end
        return msgspec.structs.replace(span, position=span.end) if beyond else span

    # --- writing ----------------------------------------------------------------------------------

    async def _note(self, job: _Job, progress: Progress) -> None:
        """Nothing is to be written but how far it has come: now and then, and at the end with what follows."""
        now_s = self._clock.monotonic()
        if now_s - job.noted_s < self._limits.note_s:
            self.progress[progress.id] = progress
            return
        job.noted_s = now_s
        await self._write(progress, [])

    async def _write(self, progress: Progress, outs: list[Out]) -> None:
        """In one transaction. What it says is known from then on, not before."""
        progress = msgspec.structs.replace(progress, updated_ms=self._clock.now_ms())
        value = encode_progress(self._header, progress)
        topic = self._maker.topics.replays_progress
        await self._publisher.publish([*outs, (topic, progress.id.encode(), value, -1, None)], ())
        self.progress[progress.id] = progress


def _topic(progress: Progress) -> str:
    return progress.spans[0].topic if progress.spans else ""


def _again(span: Span) -> Span:
    return msgspec.structs.replace(span, position=span.start)


def _around(span: Span, offsets: list[int]) -> Span:
    """As much of the span as these offsets take."""
    inside = [offset for offset in offsets if span.start <= offset < span.end]
    start, end = (min(inside), max(inside) + 1) if inside else (span.start, span.start)
    return msgspec.structs.replace(span, start=start, end=end, position=start)


def _advanced(progress: Progress, step: _Step) -> Progress:
    return msgspec.structs.replace(
        progress, spans=tuple(step.spans), read=progress.read + step.read, skipped=progress.skipped + step.skipped
    )


def _all_unsent(progress: Progress, step: _Step) -> tuple[Unsent, ...]:
    """With those of this step, which may go on with one of before."""
    if not step.unsent:
        return progress.unsent
    before = {(each.subscription_id, each.partition, each.start): each for each in progress.unsent}
    return tuple((before | step.unsent).values())


def _missing(unsent: tuple[Unsent, ...]) -> str:
    """Whose dead letters were not sent, in a sentence; empty for nobody's."""
    names = sorted({each.subscription_id for each in unsent})
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return f"nothing was sent to {names[0]}{more}, gone or changed since: their dead letters stay open" if names else ""


def _is_read(progress: Progress) -> bool:
    return all(span.position >= span.end for span in progress.spans)
