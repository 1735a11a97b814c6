"""Changing what the control plane's topics hold: with the pen, and with an audit record in the same transaction.

Every route that changes something does it through `Control.change`. This file does not know what is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from connectors.api.routes import Call
from connectors.pen import Pen
from schemas.audit import Asked, audit_out, audit_record
from schemas.frame import Out


class Control:
    """A service. `header` is that of the registered schema of audit records."""

    def __init__(self, pen: Pen, audit_topic: str, audit_header: bytes, now_ms: Callable[[], int]) -> None:
        self._pen = pen
        self._topic = audit_topic
        self._header = audit_header
        self.now_ms = now_ms

    async def change(self, decide: Callable[[], list[Out]], *, about: Hashable = None) -> None:
        """See `Pen.change`; what `decide` returns includes `audit`'s record."""
        await self._pen.change(decide, about=about)

    def asked(self, call: Call) -> Asked:
        """The call, as the trail tells of it: by whom, when, and from where."""
        remote = call.request.remote or ""
        return Asked(principal=call.principal, at_ms=self.now_ms(), request_id=call.request_id, remote=remote)

    def audit(
        self,
        call: Call,
        action: str,
        kind: str,
        resource_id: str,
        tenant: str | None,
        before: object | None,
        after: object | None,
    ) -> Out:
        """Who changed what; secrets are hidden."""
        record = audit_record(self.asked(call), action, kind, resource_id, tenant, before, after)
        return audit_out(self._topic, self._header, record)
