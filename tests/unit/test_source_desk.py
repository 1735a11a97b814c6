"""Changes of sources on a pen in memory: what may not be asked is refused before anything is written."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, cast

import pytest

from connectors.pen import Decide, Pen
from connectors.source_desk import (
    SOURCES_MAX,
    Sealer,
    SourceChangedError,
    SourceConflictError,
    SourceDesk,
    SourceTopics,
    UnknownSourceError,
)
from connectors.sources import SourcesTable
from schemas.access import SCOPES, Principal
from schemas.audit import Asked, decode_audit
from schemas.codec import wire_header
from schemas.errors import InvalidSourceError, UnsealableError
from schemas.source import Source, decode_source
from schemas.topics import Topics

TOPICS = Topics()
GIVEN: dict[str, Any] = {"id": "gh", "provider": "github", "secrets": ["hush"], "tenant": "acme"}


class Table:
    """What was written, by id; each write is a version."""

    def __init__(self) -> None:
        self.by_id: dict[str, Source] = {}
        self.versions: dict[str, int] = {}

    def get(self, source_id: str) -> Source | None:
        return self.by_id.get(source_id)

    def sources(self) -> list[Source]:
        return list(self.by_id.values())

    def offset_of(self, source_id: str) -> int | None:
        return self.versions.get(source_id)


class MemoryPen:
    """Writes into the table at once."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.actions: list[str] = []

    async def change(self, decide: Decide, *, about: Hashable = None) -> None:
        for topic, key, value, _, _ in decide():
            if topic == TOPICS.audit:
                self.actions.append(decode_audit(value).action)
                continue
            source_id = (key or b"").decode()
            self.table.versions[source_id] = len(self.table.versions) + len(self.actions)
            if value is None:
                del self.table.by_id[source_id]
            else:
                self.table.by_id[source_id] = decode_source(value)


class Seals:
    """Sealing that can be read: `sealed:<key>:` and the text with what base64 it takes to look sealed."""

    def __init__(self) -> None:
        self.key = "k1"
        self.lost = False

    def open(self, text: str, place: str) -> str:
        if not text.startswith("sealed:"):
            return text
        if self.lost:
            raise UnsealableError(f"{place} is sealed with another key")
        return text.split(":")[2].strip("A")

    def seal(self, text: str, place: str) -> str:
        return f"sealed:{self.key}:{text:A<60}"


@pytest.fixture
def seals() -> Seals:
    return Seals()


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def pen(table: Table) -> MemoryPen:
    return MemoryPen(table)


@pytest.fixture
def desk(table: Table, pen: MemoryPen, seals: Seals) -> SourceDesk:
    topics = SourceTopics(TOPICS.sources, wire_header(1), TOPICS.audit, wire_header(2))
    sealer = Sealer(seals.open, seals.seal, lambda: seals.key)
    return SourceDesk(cast(SourcesTable, table), cast(Pen, pen), topics, sealer)


def asked(tenant: str | None = "acme", at_ms: int = 5) -> Asked:
    return Asked(principal=Principal(actor="key:k", tenant=tenant, scopes=frozenset(SCOPES)), at_ms=at_ms)


async def test_secrets_are_sealed_and_kept(desk: SourceDesk, table: Table, pen: MemoryPen) -> None:
    first, created = await desk.put(asked(), GIVEN)
    assert created
    assert first.secrets[0].startswith("sealed:k1:hush")
    kept = {name: value for name, value in GIVEN.items() if name != "secrets"} | {"description": "x"}
    second, created = await desk.put(asked(at_ms=9), kept)
    assert not created
    assert (second.secrets, second.created_ms, second.updated_ms) == (first.secrets, 5, 9)
    both, _ = await desk.put(asked(), GIVEN | {"secrets": ["new", *first.secrets]})
    assert both.secrets[1] == first.secrets[0]  # what is sealed already is not sealed anew
    assert pen.actions == ["created", "updated", "updated"]
    assert table.by_id["gh"] == both


async def test_what_may_not_be_asked(desk: SourceDesk, table: Table, pen: MemoryPen, seals: Seals) -> None:
    with pytest.raises(InvalidSourceError, match="provider"):
        await desk.put(asked(), GIVEN | {"provider": "acme"})
    with pytest.raises(InvalidSourceError, match="secrets: between 1 and 5"):
        await desk.put(asked(), {"id": "gh", "provider": "github", "tenant": "acme"})
    with pytest.raises(UnknownSourceError):
        await desk.put(asked("rival"), GIVEN)
    await desk.put(asked(), GIVEN)
    with pytest.raises(SourceConflictError, match="already"):
        await desk.put(asked(), GIVEN, new=True)
    with pytest.raises(UnknownSourceError):
        await desk.put(asked("rival"), GIVEN | {"tenant": "rival"})
    with pytest.raises(SourceChangedError):
        await desk.put(asked(), GIVEN, version=17)
    with pytest.raises(SourceChangedError):
        await desk.delete(asked(), "gh", version=17)
    with pytest.raises(UnknownSourceError):
        await desk.delete(asked("rival"), "gh")
    seals.lost = True
    with pytest.raises(InvalidSourceError, match="sealed with another key"):
        await desk.put(asked(), GIVEN | {"secrets": list(table.by_id["gh"].secrets)})
    assert pen.actions == ["created"]
    gone = await desk.delete(asked(), "gh", version=desk.version("gh"))
    assert gone.id == "gh"
    assert not table.by_id


async def test_a_tenant_has_so_many_and_no_more(desk: SourceDesk, table: Table) -> None:
    for number in range(SOURCES_MAX):
        table.by_id[str(number)] = Source(id=str(number), provider="github", tenant="acme", secrets=("x",))
    with pytest.raises(SourceConflictError, match="1000 sources already"):
        await desk.put(asked(), GIVEN)
    await desk.put(asked(), GIVEN | {"id": "7"})  # one that is there may change
    await desk.put(asked("other"), GIVEN | {"tenant": "other"})


async def test_secrets_move_to_another_key(desk: SourceDesk, table: Table, pen: MemoryPen, seals: Seals) -> None:
    await desk.put(asked(), GIVEN | {"secrets": ["one", "two"]})
    assert not await desk.reseal(asked(), "gh")
    seals.key = "k2"
    assert await desk.reseal(asked(), "gh")
    assert [text.split(":")[1] for text in table.by_id["gh"].secrets] == ["k2", "k2"]
    seals.key, seals.lost = "k3", True
    with pytest.raises(UnsealableError):
        await desk.reseal(asked(), "gh")
    with pytest.raises(UnknownSourceError):
        await desk.reseal(asked(), "none")
    assert pen.actions == ["created", "resealed"]
