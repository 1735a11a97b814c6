"""A schema registry's store on a compacted Kafka topic, `_schemas`, as Confluent's registry has it.

One writer at a time, whoever takes over: what is written goes through the topic's one transactional id, which fences
the writer before. Who has taken over reads the topic to its end before it decides anything, so no two processes give
one id, and no version has two schemas. A write is acknowledged once it has been read back. ARCHITECTURE.md has the
whole argument. This file does not decide what may be written (`connectors/registry_rules.py`) and speaks no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from confluent_kafka import KafkaException

from connectors import registry_rules as rules
from connectors.admin import ClusterError, apply_topics, check_topics, connected
from connectors.log_reader import KafkaLogReader
from connectors.publisher import TransactionalPublisher
from connectors.registry_log import BadRecordError, Change, apply, decode, encode_key, encode_value
from connectors.registry_rules import Asked, Decision, RefusedError
from connectors.registry_state import Entry, State
from schemas.errors import FencedError, RecordTooLargeError, RegistryUnavailableError
from schemas.frame import Out
from schemas.topics import TopicSpec

T = TypeVar("T")
log = logging.getLogger(__name__)

#: How long a question waits for Kafka, how long a write, and how long the start.
READ_SECONDS, WRITE_SECONDS, START_SECONDS = 5.0, 30.0, 120.0
#: How often one write takes over again after another process did.
TAKEOVERS_MAX = 5
#: Of a new topic: a schema of `SCHEMA_BYTES_MAX`, escaped in JSON.
MESSAGE_BYTES_MAX = 4 << 20
_READ_BACK_PAUSE_S = 0.005


class StoreError(Exception):
    """The topic cannot hold schemas: one sentence with the next step."""


async def prepare_topic(config: Mapping[str, Any], topic: str, replication_factor: int) -> None:
    """Create the topic unless it is there. StoreError when it is not fit; ClusterError."""
    spec = TopicSpec(topic, 1, "compact", None, MESSAGE_BYTES_MAX)
    # One that is there may have the size that Confluent's registry gave it.
    problems = await check_topics(config, [TopicSpec(topic, 1, "compact", None, 0)])
    if any("does not exist" in problem for problem in problems):
        await apply_topics(config, [spec], replication_factor)
    elif problems:
        raise StoreError(f"{problems[0]}: schemas would be lost; correct it, or choose another topic")
    listed = await asyncio.to_thread(lambda: connected(config).list_topics(topic, timeout=10).topics[topic])
    if len(listed.partitions) != 1:
        raise StoreError(f"the topic {topic} has {len(listed.partitions)} partitions, not one; choose another topic")


class TopicStore:
    """Serves what the topic holds, and writes to it. For one event loop; `start` first, `close` at the end.

    `config` is librdkafka's. Every question is answered as of its own time: what any process has acknowledged is seen.
    A known id is answered without asking Kafka, since it never changes.
    """

    def __init__(self, config: Mapping[str, Any], topic: str) -> None:
        self._config = config
        self._topic = topic
        self._id = f"distributary.registry.{topic}"
        self._state = State()
        self._reader = KafkaLogReader(config, topic)
        self._next = 0  # one past the last record that was applied
        self._offsets: dict[bytes, int] = {}  # of the last record by key
        self._keys: dict[object, bytes] = {}  # as they stand in the topic, which another registry may have written
        self._reading: asyncio.Task[None] | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._publisher: TransactionalPublisher | None = None
        self._scanned = 0  # up to where records of aborted transactions were looked for

    async def start(self) -> None:
        """Read the topic, and be the one who writes: the first time on a cluster, that takes long. KafkaException;
        RegistryUnavailableError when it takes longer than `START_SECONDS`."""
        await self._caught_up(START_SECONDS)
        try:
            async with asyncio.timeout(START_SECONDS), self._writing:
                await self._take_over()
        except TimeoutError:
            raise RegistryUnavailableError(f"Kafka does not let {self._id} write; check the cluster's log") from None
        except FencedError:
            log.info("another registry has started on %s at the same time", self._topic)

    async def close(self) -> None:
        """Let go; a write under way has failed or succeeded before."""
        async with self._writing:
            await self._resign()
        await self._reader.close()
        for task in (self._reading, self._waiting):
            if task is not None:
                await asyncio.gather(task, return_exceptions=True)

    # --- as a store of the REST API -----------------------------------------------------------------------------------

    async def current(self) -> State:
        """What the topic holds now."""
        await self._caught_up(READ_SECONDS)
        return self._state

    async def of_id(self, schema_id: int) -> list[Entry]:
        """Every version with this id."""
        return self._state.by_id(schema_id) or (await self.current()).by_id(schema_id)

    async def register_asked(self, subject: str, asked: Asked) -> Entry:
        """The version of the subject with this schema, new or existing."""
        return await self._write(lambda state: rules.register(state, subject, asked))

    async def delete_version(self, subject: str, version: str, *, permanent: bool) -> int:
        """Its number."""
        return await self._write(lambda state: rules.delete_version(state, subject, version, permanent=permanent))

    async def delete_subject(self, subject: str, *, permanent: bool) -> list[int]:
        """The numbers of its versions."""
        return await self._write(lambda state: rules.delete_subject(state, subject, permanent=permanent))

    async def set_level(self, subject: str | None, level: str) -> str:
        """Of a subject, or of all."""
        return await self._write(lambda state: rules.set_level(state, subject, level))

    async def clear_level(self, subject: str | None) -> str:
        """The level that was in force."""
        return await self._write(lambda state: rules.clear_level(state, subject))

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _caught_up(self, timeout_s: float) -> None:
        """Everything that was committed before the call is applied. RegistryUnavailableError."""
        if self._waiting is None:  # one that runs already may have met the end before; those who wait share the next
            self._waiting = asyncio.create_task(self._read_next(self._reading))
        try:
            await asyncio.wait_for(asyncio.shield(self._waiting), timeout_s)
        except TimeoutError:
            raise RegistryUnavailableError(
                f"Kafka does not answer, so nothing can be said of the topic {self._topic}; check the cluster"
            ) from None
        except KafkaException as error:
            raise RegistryUnavailableError(f"the topic {self._topic} cannot be read: {error.args[0].str()}") from None
        except ClusterError as error:
            raise RegistryUnavailableError(str(error)) from None

    async def _read_next(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        self._reading, self._waiting = self._waiting, None
        while records := await self._reader.read(0, self._next):
            for record in records:
                self._take(record.offset(), record.key(), record.value())

    def _take(self, offset: int, key: bytes | None, value: bytes | None) -> None:
        self._next = offset + 1
        try:
            change = decode(key, value)
        except BadRecordError as error:
            log.error("%s offset %d is left out: %s", self._topic, offset, error)
            return
        if key is None or change is None:
            return
        self._offsets[key] = offset
        self._keys[change[0]] = key
        self._warn_of_two(change)
        apply(self._state, change)

    def _warn_of_two(self, change: Change) -> None:
        """Nothing of ours writes this; another registry that writes at the same time would."""
        (kind, subject, version), value = change
        if kind != "SCHEMA" or value is None:
            return
        others = [
            entry for entry in self._state.by_id(value["id"]) if (entry.subject, entry.version) != (subject, version)
        ]
        if (
            any(other.schema != value["schema"] for other in others)
            and self._state.id_of(value["schema"]) != value["id"]
        ):
            log.error("%s: the id %d has two schemas; does another registry write to it?", self._topic, value["id"])

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _write(self, decide: Callable[[State], Decision[T]]) -> T:
        """What is decided on the newest state, written and read back. RefusedError; RegistryUnavailableError."""
        decision = decide(await self.current())
        if not decision.changes:  # most: a serializer asks for what is there already
            return decision.answer
        try:
            async with asyncio.timeout(WRITE_SECONDS), self._writing:
                return await self._write_alone(decide)
        except TimeoutError:
            raise RefusedError(rules.TIMED_OUT, "Kafka did not take the record in time; ask whether it did") from None
        except RecordTooLargeError as error:
            raise RefusedError(rules.TOO_LARGE, str(error)) from None
        except KafkaException as error:
            raise RegistryUnavailableError(f"Kafka refuses the record: {error.args[0].str()}") from None
        except ClusterError as error:
            raise RegistryUnavailableError(str(error)) from None

    async def _write_alone(self, decide: Callable[[State], Decision[T]]) -> T:
        for _ in range(TAKEOVERS_MAX):
            try:
                publisher = self._publisher or await self._take_over()
                decision = decide(await self.current())
                await self._publish(publisher, [self._record(change) for change in decision.changes])
            except FencedError:  # another process wrote meanwhile; nothing of this was written
                await self._resign()
            except RefusedError:
                raise
            except BaseException:  # whether it was written is not known: who takes over finds out
                await self._resign()
                raise
            else:
                return decision.answer
        raise RefusedError(rules.TIMED_OUT, "other registries write to the same topic all the time; try again")

    async def _take_over(self) -> TransactionalPublisher:
        """Be the one who writes: fence the one before, and know all that it wrote."""
        publisher = TransactionalPublisher(self._config, self._id, lambda: None)
        try:
            await publisher.start()
            await self.current()
            # What stands in the log of an aborted transaction, because its writer died or was fenced, would be seen by
            # a registry that reads uncommitted records, as Confluent's does. So it counts, and is written again.
            if left := await self._left_behind():
                log.warning("%s: %d records of an aborted transaction are written again", self._topic, len(left))
                await self._publish(publisher, left)
        except BaseException:
            await publisher.close()
            raise
        self._publisher = publisher
        return publisher

    async def _resign(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()

    async def _left_behind(self) -> list[Out]:
        """Records after the last committed one of their keys."""
        reader = KafkaLogReader(self._config, self._topic, uncommitted=True)
        left: dict[bytes, bytes | None] = {}
        try:
            while records := await reader.read(0, self._scanned):
                for record in records:
                    key = record.key()
                    self._scanned = record.offset() + 1
                    if key is not None and record.offset() > self._offsets.get(key, -1):
                        left.pop(key, None)
                        left[key] = record.value()
        finally:
            await reader.close()
        return [(self._topic, key, value, 0, None) for key, value in left.items() if _is_change(key, value)]

    def _record(self, change: Change) -> Out:
        key, value = change
        return (self._topic, self._keys.get(key) or encode_key(key), encode_value(value), 0, None)

    async def _publish(self, publisher: TransactionalPublisher, records: Sequence[Out]) -> None:
        """Committed, and read back."""
        if not records:
            return
        before = {key: self._offsets.get(key, -1) for _, key, _, _, _ in records if key is not None}
        await publisher.publish(records, ())
        await self.current()
        while any(self._offsets.get(key, -1) == offset for key, offset in before.items()):
            await asyncio.sleep(_READ_BACK_PAUSE_S)  # committed; the brokers tell readers a moment later
            await self.current()


def _is_change(key: bytes, value: bytes | None) -> bool:
    try:
        return decode(key, value) is not None
    except BadRecordError:
        return False
