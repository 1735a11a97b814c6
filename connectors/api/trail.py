"""The audit trail: /v1/audit.

What a record holds is in `schemas/audit.py`; handlers write theirs with their change (`connectors/api/control.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from connectors.api.cursors import LIMIT_MAX, cursor, position
from connectors.api.principal import acts_for
from connectors.api.routes import Answer, Call, Reply, Route
from connectors.newest import NewestFirst
from schemas.audit import AuditRecord, decode_audit
from schemas.errors import UndecodableError
from schemas.frame import Record

#: Reads of the topic for one page; the next page goes on behind them.
READS_MAX = 20


class History:
    """A service: reads the topic."""

    def __init__(self, newest: NewestFirst) -> None:
        self.newest = newest


class AuditQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What the trail is narrowed to."""

    tenant: Annotated[str | None, Meta(description="Of this tenant only; of an operator's key")] = None
    kind: Annotated[str | None, Meta(description="Of things of this kind, as `subscription` or `key`")] = None
    resource_id: Annotated[str | None, Meta(description="Of the thing with this id")] = None
    action: Annotated[str | None, Meta(description="`created`, `changed`, `deleted` and others")] = None
    actor: Annotated[str | None, Meta(description="By whom, as `key:<id>`")] = None
    since_ms: Annotated[int, Meta(ge=0, description="Not before this time")] = 0
    until_ms: Annotated[int, Meta(ge=0, description="Before this time; 0 for no end")] = 0
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="At most so many on a page")] = 100
    cursor: Annotated[str | None, Meta(description="Where the page begins: `next` of the page before")] = None

    def wants(self, record: AuditRecord) -> bool:
        """Whether it belongs into the list, whosever it is."""
        narrowed = ("kind", "resource_id", "action", "actor")
        return (
            all(getattr(self, name) in (None, getattr(record, name)) for name in narrowed)
            and record.at_ms >= self.since_ms
            and (not self.until_ms or record.at_ms < self.until_ms)
        )


class Audit(msgspec.Struct, kw_only=True):
    """One change. `before` and `after` are the thing without its secrets, null where it was not or is not there."""

    id: str
    at_ms: int
    actor: str
    tenant: str | None
    action: str
    kind: str
    resource_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str
    remote: str


class AuditPage(msgspec.Struct, kw_only=True):
    """A page, the newest first; `next` is the cursor of the next one, null on the last. A page may be empty."""

    items: list[Audit]
    next: str | None


def audit_view(record: AuditRecord, offset: int) -> Audit:
    """As it is shown."""
    fields = msgspec.structs.asdict(record)
    for name in ("before", "after"):
        fields[name] = msgspec.json.decode(fields[name]) if fields[name] is not None else None
    return Audit(id=str(offset), **fields)


def decoded(record: Record, tenant: str | None) -> AuditRecord | None:
    """The record, when it is one, and this tenant's where one is given."""
    if tenant is not None and record.key() != tenant.encode():
        return None
    try:
        found = decode_audit(record.value())
    except UndecodableError:  # somebody else's; the trail of what can be read goes on
        return None
    return found if tenant in (None, found.tenant) else None


async def newest_audits(
    newest: NewestFirst, before: int | None, tenant: str | None, wants: Callable[[AuditRecord], bool], limit: int
) -> tuple[list[Audit], int | None]:
    """Up to `limit` records below the offset `before`, the newest first; and where to go on. ClusterError."""
    items: list[Audit] = []
    for _ in range(READS_MAX):
        records, following = await newest.read(0, before)
        for record in records:
            found = decoded(record, tenant)
            if found is not None and wants(found):
                items.append(audit_view(found, record.offset()))
                if len(items) == limit:
                    return items, record.offset()
        before = following
        if before is None:
            break
    return items, before


async def list_audit(call: Call) -> Reply:
    """A page of the trail."""
    query = call.query
    tenant = acts_for(call.principal, query.tenant)
    last: Any = position(query.cursor, tuple[Annotated[int, Meta(ge=0)]])
    before = last[0] if last else None
    items, following = await newest_audits(call.get(History).newest, before, tenant, query.wants, query.limit)
    return Reply(AuditPage(items=items, next=None if following is None else cursor(following)))


ROUTES = [
    Route(
        method="GET",
        path="/v1/audit",
        handler=list_audit,
        summary="Who changed what, the newest first",
        tag="audit",
        scope="audit:read",
        query=AuditQuery,
        answers={200: Answer(type=AuditPage, description="A page")},
    ),
]
