"""Schemas in a folder of files: the embedded default of the `Registry` port, with our own schemas beside them.

Ids come of the schemas' canonical text, so the folder may be copied, mounted or baked into an image. Nothing is
deleted and no compatibility is checked: the files are the truth, and who changes them decides. Parsing is
`schemas/codec.py`; serving a folder to other programs is `connectors/registry_rest.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec

from connectors.registry_rules import BAD_SCHEMA, NOT_PERMITTED, SCHEMA_BYTES_MAX, Asked, RefusedError, checked
from connectors.registry_state import Entry, State, record_name
from schemas import codec
from schemas.delivery import dead_letter_schema
from schemas.errors import RegistryUnavailableError, UnknownSchemaError
from schemas.subjects import LATEST, Version, no_version

log = logging.getLogger(__name__)

#: A file changed in place does not change its folder's time; this is how long such a change may go unseen.
RESCAN_SECONDS = 2.0

_FILE = re.compile(r"(?P<subject>.+)\.v(?P<version>[1-9][0-9]{0,8})\.avsc")
_FILE_NAME_BYTES_MAX = 255


class _Shelf:
    """What a folder held when it was read, and what was wrong with it."""

    def __init__(self) -> None:
        self.state = State(level="NONE")
        self.ambiguous: dict[int, str] = {}
        self.problems: list[str] = []

    def add(self, subject: str, version: int, text: str, source: str) -> None:
        try:
            entry = _entry(subject, version, text)
        except ValueError as error:
            self.problems.append(f"{source} is {error}; correct or remove it")
            return
        same_version = self.state.entry(subject, version)
        if same_version is not None:
            if same_version.id != entry.id:
                self.problems.append(f"{source} is a second version {version} of {subject}; give it the next number")
            return
        if problem := self.collision(entry):
            self.ambiguous[entry.id] = problem
            self.problems.append(problem)
        self.state.put(entry)

    def collision(self, entry: Entry) -> str | None:
        """The sentence about another schema of the same id."""
        for other in self.state.by_id(entry.id):
            if codec.canonical(entry.schema) != codec.canonical(other.schema):
                return (
                    f"two different schemas, of {other.subject} version {other.version} and of {entry.subject} "
                    f"version {entry.version}, come to the same id {entry.id}; add an alias to one of them"
                )
        return None


def _entry(subject: str, version: int, text: str) -> Entry:
    codec.parse_schema(text)
    return Entry(subject=subject, version=version, id=codec.content_id(text), schema=text)


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
        found = await self.of_id(schema_id)
        if not found:
            raise UnknownSchemaError(f"no schema with the id {schema_id} is known; add its .avsc file to the folder")
        return found[0].schema

    async def register(self, subject: str, schema: str) -> int:
        """Keep the schema as the subject's next version unless it has it; the id. ValueError when refused."""
        return await asyncio.to_thread(self._register, subject, schema)

    async def versions_of(self, schema_id: int) -> Sequence[tuple[str, int]]:
        """See the port."""
        return [(entry.subject, entry.version) for entry in (await self.current()).by_id(schema_id)]

    async def version(self, subject: str, number: int) -> Version:
        """See the port."""
        state = await self.current()
        entry = state.newest(subject) if number == LATEST else state.entry(subject, number)
        if entry is None:
            raise UnknownSchemaError(no_version(subject, number))
        return Version(entry.id, entry.version, entry.schema)

    async def subjects(self) -> list[str]:
        """See the port."""
        return (await self.current()).subjects()

    async def versions(self, subject: str) -> list[int]:
        """See the port."""
        return [entry.version for entry in (await self.current()).versions(subject)]

    async def level(self, subject: str) -> str:
        """See the port; always NONE."""
        return (await self.current()).level(subject)

    async def current(self) -> State:
        """What the folder holds now. RegistryUnavailableError."""
        await self.refresh()
        return self._shelf.state

    async def refresh(self) -> None:
        """Read the folder again when it may have changed; cheap when it has not. RegistryUnavailableError."""
        if self._may_have_changed():
            await asyncio.to_thread(self._reread)

    async def list_entries(self) -> list[Entry]:
        """All versions of all subjects, in order. RegistryUnavailableError."""
        return list((await self.current()).entries())

    async def close(self) -> None:
        """Nothing to let go of."""

    # --- as a store of the REST API, where only registering is possible -----------------------------

    async def of_id(self, schema_id: int) -> list[Entry]:
        """Every version with this id; the folder is not read again for one that is known."""
        if not self._shelf.state.by_id(schema_id) or schema_id in self._shelf.ambiguous:
            await self.refresh()
        if problem := self._shelf.ambiguous.get(schema_id):
            raise RegistryUnavailableError(problem)
        return self._shelf.state.by_id(schema_id)

    async def register_asked(self, subject: str, asked: Asked) -> Entry:
        """The version of the subject with this schema, new or existing."""
        checked(await self.current(), asked)
        if asked.references:
            raise RefusedError(BAD_SCHEMA, "a folder keeps no references; register the schema with them written out")
        try:
            schema_id = await self.register(subject, asked.schema)
        except ValueError as error:
            raise RefusedError(NOT_PERMITTED, str(error)) from None
        return next(entry for entry in self._shelf.state.by_id(schema_id) if entry.subject == subject)

    async def delete_version(self, subject: str, version: str, *, permanent: bool) -> int:
        """Refused."""
        raise self._files_decide()

    async def delete_subject(self, subject: str, *, permanent: bool) -> list[int]:
        """Refused."""
        raise self._files_decide()

    async def set_level(self, subject: str | None, level: str) -> str:
        """Refused."""
        raise self._files_decide()

    async def clear_level(self, subject: str | None) -> str:
        """Refused."""
        raise self._files_decide()

    def _files_decide(self) -> RefusedError:
        where = f"the folder {self._folder}" if self._folder else "distributary itself"
        return RefusedError(
            NOT_PERMITTED, f"the schemas are files of {where}, and no levels are kept; change the files"
        )

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
        for stem, version in codec.own_schemas():
            own = dead_letter_schema(version) if stem == "dead_letter" else codec.own_schema(f"{stem}.v{version}")
            shelf.add(record_name(own), version, own, "our own schema")  # under the record's full name
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
            if not self._holds(entry):
                self._refuse_collision(entry)
                _write(self._folder, _file_name(subject, self._next_version(subject)), schema)
                self._shelf = self._read()
        return entry.id

    def _register_in_memory(self, entry: Entry) -> int:
        """Without a folder, only what every process knows may get one more subject."""
        with self._lock:
            self._refuse_collision(entry)
            if not self._shelf.state.by_id(entry.id):
                raise ValueError(f"there is no folder to keep the schema of {entry.subject} in; configure one")
            if not self._holds(entry):
                self._shelf.state.put(msgspec.structs.replace(entry, version=self._next_version(entry.subject)))
        return entry.id

    def _holds(self, entry: Entry) -> bool:
        return any(held.subject == entry.subject for held in self._shelf.state.by_id(entry.id))

    def _next_version(self, subject: str) -> int:
        newest = self._shelf.state.newest(subject)
        return newest.version + 1 if newest else 1

    def _refuse_collision(self, entry: Entry) -> None:
        if problem := self._shelf.collision(entry):
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
