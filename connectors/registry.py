"""Schemas by id: a Confluent-compatible registry by URL, or a folder of files as the embedded default.

Both honour the `Registry` port. This file caches texts; parsing is `schemas/codec.py`, and serving a folder
to other programs is `connectors/registry_server.py`. Compatibility between versions is the URL registry's
business; a folder takes any valid schema.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import math
import os
import re
import threading
from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from urllib.parse import quote, unquote, urlsplit

import msgspec

from schemas import codec
from schemas.delivery import dead_letter_schema
from schemas.errors import RegistryUnavailableError, UnknownSchemaError
from schemas.subjects import LATEST, Version, no_version

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import Schema
    from confluent_kafka.schema_registry.error import SchemaRegistryError

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

#: Every version of our own records. Their subjects are the records' full names.
_OWN = (
    ("attempt", 1),
    ("dead_letter", 1),
    ("delivery", 1),
    ("endpoint_state", 1),
    ("event", 1),
    ("event", 2),
    ("operation", 1),
    ("subscription", 1),
    ("subscription", 2),
    ("subscription", 3),
)

SCHEMA_BYTES_MAX = 1 << 20
#: A file changed in place does not change its folder's time; this is how long such a change may go unseen.
RESCAN_SECONDS = 2.0

_FILE = re.compile(r"(?P<subject>.+)\.v(?P<version>[1-9][0-9]{0,8})\.avsc")
_FILE_NAME_BYTES_MAX = 255


class Entry(msgspec.Struct, frozen=True):
    """One version of one subject. `name` is the record's full name, `schema` the text as it was given."""

    subject: str
    version: int
    id: int
    name: str
    schema: str


class _Shelf:
    """What a folder held when it was read, and what was wrong with it."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, int], Entry] = {}
        self.by_id: dict[int, Entry] = {}
        self.ambiguous: dict[int, str] = {}
        self.problems: list[str] = []

    def add(self, subject: str, version: int, text: str, source: str) -> None:
        try:
            entry = _entry(subject, version, text)
        except ValueError as error:
            self.problems.append(f"{source} is {error}; correct or remove it")
            return
        same_version = self.entries.setdefault((subject, version), entry)
        if same_version.id != entry.id:
            self.problems.append(f"{source} is a second version {version} of {subject}; give it the next number")
            return
        same_id = self.by_id.setdefault(entry.id, entry)
        if problem := _collision(entry, same_id):
            self.ambiguous[entry.id] = problem
            self.problems.append(problem)

    def find(self, subject: str, schema_id: int) -> Entry | None:
        return next((e for e in self.entries.values() if e.subject == subject and e.id == schema_id), None)


def _entry(subject: str, version: int, text: str) -> Entry:
    parsed: Any = codec.parse_schema(text)
    name = parsed.get("name", "") if isinstance(parsed, dict) else ""  # it may also be a union or a bare type
    return Entry(subject=subject, version=version, id=codec.content_id(text), name=name, schema=text)


def _collision(one: Entry, other: Entry) -> str | None:
    if one.id != other.id or codec.canonical(one.schema) == codec.canonical(other.schema):
        return None
    return (
        f"two different schemas, of {other.subject} version {other.version} and of {one.subject} version "
        f"{one.version}, come to the same id {one.id}; add an alias to one of them"
    )


class FolderRegistry:
    """Our own schemas, and those of a folder's files `<subject>.v<version>.avsc`.

    An id derives from the schema's canonical text (`codec.content_id`): the same on every machine that has
    the file, so the folder may be copied, mounted or baked into an image. `monotonic` returns seconds.

    ValueError with a sentence when the folder is missing, or holds a file that is no schema or breaks a rule;
    a file that goes bad later is logged and left out.
    """

    def __init__(self, folder: Path | None, *, monotonic: Callable[[], float]) -> None:
        self._folder = folder
        self._monotonic = monotonic
        self._lock = threading.Lock()
        if folder is not None and not folder.is_dir():
            raise ValueError(f"the schema folder {folder} does not exist; create it or choose another")
        try:
            self._shelf = self._read()
        except RegistryUnavailableError as error:
            raise ValueError(str(error)) from None
        if self._shelf.problems:
            raise ValueError(self._shelf.problems[0])

    async def schema(self, schema_id: int) -> str:
        """The text of the schema; see the port. An id that two schemas share counts as out of reach."""
        if schema_id not in self._shelf.by_id or schema_id in self._shelf.ambiguous:
            await self.refresh()
        if problem := self._shelf.ambiguous.get(schema_id):
            raise RegistryUnavailableError(problem)
        entry = self._shelf.by_id.get(schema_id)
        if entry is None:
            raise UnknownSchemaError(f"no schema with the id {schema_id} is known; add its .avsc file to the folder")
        return entry.schema

    async def register(self, subject: str, schema: str) -> int:
        """Keep the schema as the subject's next version unless it has it; the id. ValueError when refused."""
        return await asyncio.to_thread(self._register, subject, schema)

    async def versions_of(self, schema_id: int) -> Sequence[tuple[str, int]]:
        """See the port."""
        await self.refresh()
        return [key for key, entry in sorted(self._shelf.entries.items()) if entry.id == schema_id]

    async def version(self, subject: str, number: int) -> Version:
        """See the port."""
        await self.refresh()
        wanted = number
        if number == LATEST:
            wanted = max((version for known, version in self._shelf.entries if known == subject), default=0)
        entry = self._shelf.entries.get((subject, wanted))
        if entry is None:
            raise UnknownSchemaError(no_version(subject, number))
        return Version(entry.id, entry.version, entry.schema)

    async def refresh(self) -> None:
        """Read the folder again when it may have changed; cheap when it has not. RegistryUnavailableError."""
        if self._may_have_changed():
            await asyncio.to_thread(self._reread)

    def entries(self) -> list[Entry]:
        """All versions of all subjects, in order."""
        return [entry for _, entry in sorted(self._shelf.entries.items())]

    def subjects(self) -> list[str]:
        """The subjects, in order."""
        return sorted({subject for subject, _ in self._shelf.entries})

    def versions(self, subject: str) -> list[Entry]:
        """The versions of a subject, ascending; empty when it is not known."""
        return [entry for entry in self.entries() if entry.subject == subject]

    async def list_entries(self) -> list[Entry]:
        """`entries` of the folder as it is now. RegistryUnavailableError."""
        await self.refresh()
        return self.entries()

    async def close(self) -> None:
        """Nothing to let go of."""

    def _may_have_changed(self) -> bool:
        if self._folder is None:
            return False
        return self._monotonic() - self._read_at >= RESCAN_SECONDS or _changed_ns(self._folder) != self._changed_ns

    def _reread(self) -> None:
        with self._lock:
            if not self._may_have_changed():
                return  # another thread was faster
            before, self._shelf = self._shelf, self._read()
        for problem in self._shelf.problems:
            if problem not in before.problems:
                log.warning("schema folder: %s", problem)

    def _read(self) -> _Shelf:
        shelf = _Shelf()
        for stem, version in _OWN:
            own = dead_letter_schema() if stem == "dead_letter" else codec.own_schema(f"{stem}.v{version}")
            shelf.add(_entry("", version, own).name, version, own, "our own schema")
        if self._folder is None:
            return shelf
        # Both from before the files are read: what changes meanwhile is read again.
        read_at, changed_ns = self._monotonic(), _changed_ns(self._folder)
        try:
            for path in sorted(self._folder.glob("*.avsc")):
                if path.name.startswith("."):
                    continue
                named = _FILE.fullmatch(path.name)
                if named is None:
                    shelf.problems.append(f"{path} is not named <subject>.v<version>.avsc; rename or remove it")
                elif path.stat().st_size > SCHEMA_BYTES_MAX:
                    shelf.problems.append(f"{path} is larger than {SCHEMA_BYTES_MAX} bytes; remove it")
                else:
                    text = path.read_text("utf-8", errors="replace")
                    shelf.add(unquote(named["subject"]), int(named["version"]), text, str(path))
        except OSError as error:
            raise RegistryUnavailableError(f"the schema folder {self._folder} cannot be read: {error}") from None
        self._read_at, self._changed_ns = read_at, changed_ns
        return shelf

    def _register(self, subject: str, schema: str) -> int:
        entry = _entry(subject, 0, schema)
        if self._folder is None:
            return self._register_in_memory(entry)
        if len(schema.encode()) > SCHEMA_BYTES_MAX:
            raise ValueError(f"the schema is larger than {SCHEMA_BYTES_MAX} bytes")
        with self._lock, _only_process(self._folder):
            self._shelf = self._read()
            if self._shelf.find(subject, entry.id) is None:
                _refuse_collision(entry, self._shelf)
                taken = [version for known, version in self._shelf.entries if known == subject]
                _write(self._folder, _file_name(subject, max(taken, default=0) + 1), schema)
                self._shelf = self._read()
        return entry.id

    def _register_in_memory(self, entry: Entry) -> int:
        """Without a folder, only what every process knows may get one more subject."""
        with self._lock:
            _refuse_collision(entry, self._shelf)
            if entry.id not in self._shelf.by_id:
                raise ValueError(f"there is no folder to keep the schema of {entry.subject} in; configure one")
            if self._shelf.find(entry.subject, entry.id) is None:
                version = len(self.versions(entry.subject)) + 1
                self._shelf.add(entry.subject, version, entry.schema, entry.subject)
        return entry.id


def _refuse_collision(entry: Entry, shelf: _Shelf) -> None:
    known = shelf.by_id.get(entry.id)
    if known is not None and (problem := _collision(entry, known)):
        raise ValueError(problem)


def _changed_ns(folder: Path) -> int:
    """Changes whenever a file is added, renamed or removed."""
    try:
        return folder.stat().st_mtime_ns
    except OSError as error:
        raise RegistryUnavailableError(f"the schema folder {folder} cannot be read: {error}") from None


@contextlib.contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Two processes must not give one version number to two schemas."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # and the lock with it


def _file_name(subject: str, version: int) -> str:
    quoted = quote(subject, safe="")
    if quoted.startswith("."):  # no hidden files: those are not read
        quoted = "%2E" + quoted[1:]
    return f"{quoted}.v{version}.avsc"


def _write(folder: Path, name: str, text: str) -> None:
    """The file with all of its text, or no file."""
    if len(name) > _FILE_NAME_BYTES_MAX:
        raise ValueError("the subject's name is too long for a file")
    partial = folder / f".{os.getpid()}.{threading.get_ident()}.partial"
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / name)
    except OSError as error:
        raise ValueError(f"the schema cannot be written to {folder}: {error}") from None
    finally:
        partial.unlink(missing_ok=True)


# --- by URL -------------------------------------------------------------------------------------------------

CACHED_MAX = 1_000
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

_SUBJECT_NOT_FOUND, _VERSION_NOT_FOUND, _SCHEMA_NOT_FOUND = 40401, 40402, 40403


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
        if self._monotonic() < self._unknown_until.get(schema_id, 0.0):
            raise UnknownSchemaError(f"the schema registry {self._shown} has no schema with the id {schema_id}")
        try:
            text = self._avro_text(schema_id, await self._ask(self._client.get_schema, schema_id))
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
        # What is softly deleted can still be asked for by its number; `latest` skips it.
        try:
            found = await self._ask(lambda: self._client.get_version(subject, number, deleted=number != "latest"))
        except UnknownSchemaError:
            raise UnknownSchemaError(no_version(subject, LATEST if number == "latest" else number)) from None
        text = self._avro_text(found.schema_id, found.schema)
        version = Version(found.schema_id, found.version, text)
        _make_room(self._numbered)
        self._numbered[subject, version.version] = version
        return version

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

    async def list_entries(self) -> list[Entry]:
        """All versions of all subjects that hold Avro schemas, in order: one request each. RegistryUnavailableError."""
        entries = []
        for subject in sorted(await self._ask(self._client.get_subjects)):
            for version in await self._ask(self._client.get_versions, subject):
                found = await self._ask(self._client.get_version, subject, version)
                if found.schema.schema_type in (None, "AVRO") and found.schema.schema_str is not None:
                    text = found.schema.schema_str
                    entries.append(Entry(subject, version, found.schema_id, _name(text), text))
        return entries

    async def close(self) -> None:
        """Let go of the connections."""
        await asyncio.to_thread(self._client.close)

    def _avro_text(self, schema_id: int, schema: Schema) -> str:
        if schema.schema_type not in (None, "AVRO") or schema.schema_str is None:
            raise UnknownSchemaError(f"the schema with the id {schema_id} is {schema.schema_type}, not AVRO")
        if schema.references:
            raise UnknownSchemaError(
                f"the schema with the id {schema_id} refers to others, which is not supported; "
                "register it with the references written out"
            )
        return schema.schema_str

    async def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        from confluent_kafka.schema_registry.error import SchemaRegistryError  # noqa: PLC0415

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
        if code in (_SUBJECT_NOT_FOUND, _VERSION_NOT_FOUND, _SCHEMA_NOT_FOUND):
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


def _name(schema: str) -> str:
    tree = msgspec.json.decode(schema)
    if not isinstance(tree, dict):
        return ""
    name, namespace = tree.get("name", ""), tree.get("namespace")
    return f"{namespace}.{name}" if namespace and "." not in name else name


def _without_credentials(url: str) -> str:
    parts = urlsplit(url.strip())
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _make_room(cache: dict[Any, Any]) -> None:
    """The oldest goes; asking for it again costs one request."""
    if len(cache) >= CACHED_MAX:
        del cache[next(iter(cache))]


def registry_from(
    *,
    url: str | None = None,
    folder: Path | None = None,
    conf: Mapping[str, Any] | None = None,
    monotonic: Callable[[], float],
) -> FolderRegistry | ConfluentRegistry:
    """The registry that the settings name; our own schemas alone when they name none. ValueError for both."""
    if url and folder:
        raise ValueError("a schema registry URL and a schema folder are both set; keep one of them")
    if url:
        return ConfluentRegistry(url, conf=conf, monotonic=monotonic)
    return FolderRegistry(folder, monotonic=monotonic)
