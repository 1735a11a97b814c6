"""Which version of an event's schema a subscription gets: asked of the registry once, remembered, asked again in time.

What has been looked up is read without waiting; what has not makes the stream wait, also while the registry is out of
reach. This file reads no event (`streams/core/views.py`) and chooses no subject (`schemas/subjects.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
import orjson

from schemas.errors import UnknownSchemaError, UnresolvableError
from schemas.subjects import LATEST, subject_of
from streams.core.views import Reading, View
from streams.counters import Counters
from streams.lookup import answered, schema_text
from streams.ports import Clock, Registry

#: Pairs of a writer's schema and a wanted version that are kept.
READINGS_MAX = 10_000
#: What may change, the newest version and what there was none of, is asked for again after so long.
FRESH_S = 10.0


class _Writer(msgspec.Struct, frozen=True):
    """A schema that events are written with, and where it stands: None for in no subject."""

    text: str
    place: tuple[str, int] | None
    until: float


class _Found(msgspec.Struct, frozen=True):
    """What a wanted version came to. None is what was written, as it is."""

    reading: Reading | UnresolvableError | None
    until: float


class Views:
    """One event in its versions, each made once. Call it with the number that a subscription asks for;
    UnresolvableError when the event has no such version."""

    __slots__ = ("_found", "_made", "_schema_id", "written")

    def __init__(self, found: Mapping[tuple[int, int], _Found], schema_id: int, written: View) -> None:
        self.written = written
        self._found = found
        self._schema_id = schema_id
        self._made: dict[int, View] = {}  # by schema id: the newest version may be a pinned one as well

    def __call__(self, number: int) -> View:
        if number == 0:
            return self.written
        reading = self._found[self._schema_id, number].reading
        if reading is None:
            return self.written
        if isinstance(reading, UnresolvableError):
            raise UnresolvableError(reading.path, reading.sentence)
        view = self._made.get(reading.schema_id)
        if view is None:
            view = self._made[reading.schema_id] = View(self.written.value, None, reading.version, reading)
        return view


class Versions:
    """Look-ups of one stage. For one event loop."""

    def __init__(self, registry: Registry, events_topic: str, clock: Clock, counters: Counters) -> None:
        self._registry = registry
        self._topic = events_topic
        self._clock = clock
        self._counters = counters
        self._writers: dict[int, _Writer] = {}
        self._found: dict[tuple[int, int], _Found] = {}

    def ready(self, schema_id: int, wanted: Collection[int]) -> bool:
        """Whether `views` can be asked, for a writer's schema and these versions (0 is as written)."""
        writer = self._writers.get(schema_id)
        if writer is None:
            return False
        if not wanted and writer.place is not None:
            return True
        now = self._clock.monotonic()
        return writer.until > now and all(
            number == 0 or ((found := self._found.get((schema_id, number))) is not None and found.until > now)
            for number in wanted
        )

    async def prepare(self, schema_id: int, wanted: Collection[int]) -> None:
        """Look up what is not ready."""
        now = self._clock.monotonic()
        writer = self._writers.get(schema_id)
        if writer is None or writer.until <= now:
            writer = await self._look_up_writer(schema_id, now)
        for number in wanted:
            if number:
                found = self._found.get((schema_id, number))
                if found is None or found.until <= now:
                    if len(self._found) >= READINGS_MAX:
                        self._found.clear()
                    self._found[schema_id, number] = await self._look_up(schema_id, writer, number, now)

    def views(self, schema_id: int, value: bytes, data: bytes) -> Views:
        """One event, framed and as JSON, in the versions that are ready."""
        place = self._writers[schema_id].place
        return Views(self._found, schema_id, View(value, data, place[1] if place else 0))

    async def _look_up_writer(self, schema_id: int, now: float) -> _Writer:
        text = await schema_text(self._registry, schema_id, self._counters)
        versions = await answered(lambda: self._registry.versions_of(schema_id), self._counters)
        place = subject_of(versions, _full_name(text), self._topic)
        if len(self._writers) >= READINGS_MAX:
            self._writers.clear()
        writer = _Writer(text, place, now + FRESH_S if place is None else float("inf"))
        self._writers[schema_id] = writer
        return writer

    async def _look_up(self, schema_id: int, writer: _Writer, number: int, now: float) -> _Found:
        if writer.place is None:
            sentence = f"the schema {schema_id} that it was written with stands in no subject of the registry"
            return _Found(UnresolvableError("$", sentence), now + FRESH_S)
        subject, _ = writer.place
        try:
            wanted = await answered(lambda: self._registry.version(subject, number), self._counters)
        except UnknownSchemaError as error:
            return _Found(UnresolvableError("$", str(error)), now + FRESH_S)
        until = now + FRESH_S if number == LATEST else float("inf")
        if wanted.id == schema_id:
            return _Found(None, until)
        before = self._found.get((schema_id, number))
        if before is not None and isinstance(before.reading, Reading) and before.reading.schema_id == wanted.id:
            return _Found(before.reading, until)  # planning how to read it costs more than asking
        try:
            return _Found(Reading(writer.text, wanted.id, wanted.version, wanted.text), until)
        except UnresolvableError as error:
            return _Found(error, until)
        except ValueError as error:
            return _Found(UnresolvableError("$", f"version {wanted.version} of {subject}: {error}"), until)


def _full_name(text: str) -> str:
    """Of a record's schema that was found valid; empty for what has no name."""
    tree = orjson.loads(text)
    if not isinstance(tree, dict) or not isinstance(tree.get("name"), str):
        return ""
    name, namespace = tree["name"], tree.get("namespace")
    return name if "." in name or not namespace else f"{namespace}.{name}"
