"""A Confluent-compatible schema registry by URL, through confluent-kafka's own client: the `Registry` port.

Ids and numbered versions are remembered for ever (bounded), the newest version of a subject and the subjects of a
schema for a few seconds. What a schema refers to is fetched and written out (`schemas/references.py`). This file does
not parse schemas, and checks no compatibility: that is the registry's business.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

from connectors.registry_state import DEFAULT_LEVEL, Entry
from schemas.errors import RegistryUnavailableError, UnknownSchemaError
from schemas.references import Reference, Referring, written_out
from schemas.subjects import LATEST, Version, no_version

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import RegisteredSchema, Schema
    from confluent_kafka.schema_registry.error import SchemaRegistryError

_Answer = TypeVar("_Answer")

CACHED_MAX = 1_000
SCHEMA_ID_MAX = (1 << 31) - 1
#: How long an unknown id is not asked for again.
UNKNOWN_SECONDS = 5.0
#: Bounds how long one question takes; whoever asks waits and asks again. Overridden by `conf`.
_DEFAULTS: dict[str, Any] = {
    "timeout": 5,
    "max.retries": 1,
    "retries.wait.ms": 100,
    "retries.max.wait.ms": 500,
}

#: How long the newest version of a subject, and the subjects of a schema, are not asked for again.
LATEST_SECONDS = 5.0

#: No such subject, version, schema, level of its own.
_NOT_FOUND = (40401, 40402, 40403, 40408)


class ConfluentRegistry:
    """A Confluent-compatible schema registry.

    `conf` takes what confluent-kafka's client takes, such as `basic.auth.user.info` (`user:password`) and
    `ssl.ca.location`; credentials may also stand in the URL. ValueError when the client refuses them. Its
    requests block, so each runs in a thread.
    """

    def __init__(self, url: str, *, conf: Mapping[str, Any] | None = None, monotonic: Callable[[], float]) -> None:
        # Imported where a registry is named: its HTTP client takes a quarter of a second to import.
        from confluent_kafka.schema_registry import SchemaRegistryClient  # noqa: PLC0415

        self._monotonic = monotonic
        self._texts: dict[int, str] = {}
        self._unknown_until: dict[int, float] = {}
        self._asked = 0
        self._numbered: dict[tuple[str, int], Version] = {}
        self._fleeting: dict[Hashable, tuple[float, Any]] = {}
        self._shown = ", ".join(_without_credentials(one) for one in url.split(","))
        try:
            self._client = SchemaRegistryClient({**_DEFAULTS, **(conf or {}), "url": url})
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"the settings of the schema registry {self._shown} are wrong: {error}") from None

    async def schema(self, schema_id: int) -> str:
        """The text of the schema; see the port. Schemas in other languages than Avro count as unknown."""
        text = self._texts.get(schema_id)
        if text is not None:
            return text
        # Beyond, Confluent's server says 404 as if it did not know the path, and the event would be waited for.
        if schema_id > SCHEMA_ID_MAX or self._monotonic() < self._unknown_until.get(schema_id, 0.0):
            raise UnknownSchemaError(f"the schema registry {self._shown} has no schema with the id {schema_id}")
        try:
            found = _entry("", 0, schema_id, await self._ask(self._client.get_schema, schema_id))
            text = await self._text(f"the schema with the id {schema_id}", found)
        except UnknownSchemaError:
            _make_room(self._unknown_until)
            self._unknown_until[schema_id] = self._monotonic() + UNKNOWN_SECONDS
            raise
        _make_room(self._texts)
        self._texts[schema_id] = text
        return text

    async def register(self, subject: str, schema: str) -> int:
        """The id under the subject; see the port."""
        from confluent_kafka.schema_registry import Schema  # noqa: PLC0415

        schema_id: int = await self._ask(self._client.register_schema, subject, Schema(schema, "AVRO"))
        return schema_id

    async def versions_of(self, schema_id: int) -> Sequence[tuple[str, int]]:
        """See the port."""
        return await self._for_a_while(schema_id, self._versions_of, schema_id)

    async def version(self, subject: str, number: int) -> Version:
        """See the port."""
        if number == LATEST:
            return await self._for_a_while(subject, self._version, subject, "latest")
        if number < 1:
            raise UnknownSchemaError(no_version(subject, number))
        known = self._numbered.get((subject, number))
        if known is None:
            known = await self._version(subject, number)
        return known

    async def _versions_of(self, schema_id: int) -> Sequence[tuple[str, int]]:
        try:
            found = await self._ask(lambda: self._client.get_schema_versions(schema_id, deleted=True))
        except UnknownSchemaError:
            return []
        return sorted((one.subject, one.version) for one in found)

    async def _version(self, subject: str, number: int | Literal["latest"]) -> Version:
        entry = await self._entry(subject, number)
        version = Version(entry.id, entry.version, await self._text(f"version {entry.version} of {subject}", entry))
        _make_room(self._numbered)
        self._numbered[subject, version.version] = version
        return version

    async def _entry(self, subject: str, number: int | Literal["latest"]) -> Entry:
        """The registry's answer. UnknownSchemaError. What is softly deleted can still be asked for by its number."""
        try:
            found: RegisteredSchema = await self._ask(
                lambda: self._client.get_version(subject, number, deleted=number != "latest")
            )
        except UnknownSchemaError:
            raise UnknownSchemaError(no_version(subject, LATEST if number == "latest" else number)) from None
        return _entry(subject, found.version or 0, found.schema_id or 0, found.schema)

    async def _for_a_while(
        self, key: Hashable, ask: Callable[..., Coroutine[Any, Any, _Answer]], *arguments: Any
    ) -> _Answer:
        """The answer, not asked for again for `LATEST_SECONDS`; longer while the registry is out of reach."""
        until, answer = self._fleeting.get(key, (-math.inf, None))
        if self._monotonic() < until:
            return cast(_Answer, answer)
        try:
            answer = await ask(*arguments)
        except RegistryUnavailableError:
            if key not in self._fleeting:
                raise
        self._fleeting.pop(key, None)
        _make_room(self._fleeting)
        self._fleeting[key] = (self._monotonic() + LATEST_SECONDS, answer)
        return cast(_Answer, answer)

    async def subjects(self) -> list[str]:
        """See the port."""
        return sorted(await self._ask(self._client.get_subjects))

    async def versions(self, subject: str) -> list[int]:
        """See the port."""
        try:
            return sorted(await self._ask(self._client.get_versions, subject))
        except UnknownSchemaError:
            return []

    async def level(self, subject: str) -> str:
        """See the port."""
        for scope in (subject, None):
            try:
                level: str = await self._ask(self._client.get_compatibility, scope)
            except UnknownSchemaError:
                continue
            return level
        return DEFAULT_LEVEL

    async def list_entries(self) -> list[Entry]:
        """All versions of all subjects that hold Avro schemas, in order: one request each. RegistryUnavailableError."""
        entries = [
            await self._entry(subject, version)
            for subject in await self.subjects()
            for version in await self.versions(subject)
        ]
        return [entry for entry in entries if entry.type == "AVRO"]

    async def close(self) -> None:
        """Let go of the connections."""
        await asyncio.to_thread(self._client.close)

    async def _text(self, what: str, entry: Entry) -> str:
        """The schema with what it refers to written out. UnknownSchemaError when there is no such Avro schema."""
        try:
            return await written_out(_avro(what, entry), entry.references, self._referred_to)
        except ValueError as error:
            raise UnknownSchemaError(f"{what} cannot be put together: {error}") from None

    async def _referred_to(self, reference: Reference) -> Referring:
        entry = await self._entry(reference.subject, reference.version)
        return _avro(f"version {entry.version} of {entry.subject}", entry), entry.references

    async def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        from confluent_kafka.schema_registry.error import SchemaRegistryError  # noqa: PLC0415

        self._asked += 1
        if self._asked % CACHED_MAX == 0:  # it keeps everything it was ever answered
            self._client.clear_caches()  # type: ignore[no-untyped-call]
        try:
            return await asyncio.to_thread(function, *arguments)
        except SchemaRegistryError as error:
            raise self._meaning(error) from None
        except Exception as error:  # noqa: BLE001 - of the HTTP library, TLS, DNS, JSON: in each case no answer
            reason = f"{type(error).__name__}: {error}"
            raise RegistryUnavailableError(
                f"the schema registry {self._shown} does not answer ({reason}); check its URL and its state"
            ) from None

    def _meaning(self, error: SchemaRegistryError) -> Exception:
        status, code, said = error.http_status_code, error.error_code, error.error_message
        # A 404 without the registry's own code comes from something else at this URL, and says nothing of the
        # id.
        if code in _NOT_FOUND:
            return UnknownSchemaError(f"the schema registry {self._shown}: {said}")
        if status in (409, 422):
            return ValueError(f"the schema registry refuses the schema: {said}")
        if status in (401, 403):
            return RegistryUnavailableError(
                f"the schema registry {self._shown} refuses the credentials ({said}); check user and password"
            )
        return RegistryUnavailableError(
            f"the schema registry {self._shown} answers {status} ({said}); check its URL and its log"
        )


def _entry(subject: str, version: int, schema_id: int, schema: Schema) -> Entry:
    references = tuple(Reference(str(r.name), str(r.subject), int(r.version or 0)) for r in schema.references or ())
    return Entry(subject, version, schema_id, schema.schema_str or "", schema.schema_type or "AVRO", references)


def _avro(what: str, entry: Entry) -> str:
    if entry.type != "AVRO":
        raise UnknownSchemaError(f"{what} is {entry.type}, not AVRO")
    return entry.schema


def _without_credentials(url: str) -> str:
    parts = urlsplit(url.strip())
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _make_room(cache: dict[Any, Any]) -> None:
    """The oldest goes; asking for it again costs one request."""
    if len(cache) >= CACHED_MAX:
        del cache[next(iter(cache))]
