"""One wide line of log for each attempt: who, what, where, and what came of it, with every id that leads further.

It stands beside the records that the delivery stage writes, so nothing is spent where it is off. What may be secret is
not in a line: no header, no body, no answer, and a URL without its query. This file does NOT decide how a line looks
(`streams/cli/logs.py`), and a line is no record: it is written when the attempt has ended, before that is durable.
"""

from __future__ import annotations

import logging
from typing import Any

from schemas.delivery import Delivery, facts_of, replay_of
from schemas.frame import Out
from schemas.post import PostResult
from schemas.topics import Topics
from schemas.trace_context import parse_traceparent
from streams.ports import SubscriptionTable
from streams.records import DeliverySchemas, Records
from streams.tracing import Tracing

#: Under its own name, so that these lines can be told from all others.
logger = logging.getLogger("distributary.attempts")


class LoggedRecords(Records):
    """Makes the records, and logs each attempt and each end without one."""

    def __init__(
        self,
        topics: Topics,
        schema_ids: DeliverySchemas,
        table: SubscriptionTable,
        worker: str,
        tracing: Tracing | None = None,
    ) -> None:
        """With `tracing`, spans hear of attempts too, and lines name them."""
        super().__init__(topics, schema_ids)
        self._table = table
        self._worker = worker
        self._tracing = tracing

    def attempt(
        self, delivery: Delivery, number: int, outcome: str, started_ms: int, result: PostResult, due_ms: int = 0
    ) -> Out:
        """See `Records`."""
        ended: dict[str, Any] = {
            "attempt": number,
            "status": result.status,
            "cause": result.cause or "",
            "detail": result.detail or "",
            "duration_ms": round(result.duration_us / 1000, 3),
            "started_ms": started_ms,
            "due_ms": due_ms,
        }
        sent = delivery.traceparent if self._tracing is None else self._tracing.judged(delivery, outcome, due_ms)
        self._log(delivery, outcome, ended, sent)
        return super().attempt(delivery, number, outcome, started_ms, result, due_ms)

    def end(self, delivery: Delivery, outcome: str, now_ms: int, detail: str) -> Out:
        """See `Records`."""
        ended = {"attempt": delivery.attempt, "detail": detail, "started_ms": now_ms}
        self._log(delivery, outcome, ended, delivery.traceparent)
        return super().end(delivery, outcome, now_ms, detail)

    def _log(self, delivery: Delivery, outcome: str, ended: dict[str, Any], traceparent: str | None) -> None:
        facts = facts_of(delivery)
        trace = parse_traceparent(traceparent)
        subscription = self._table.get(delivery.subscription_id)
        fields = {
            "outcome": outcome,
            "delivery_id": delivery.id,
            "event_id": facts.event_id,
            "event_type": facts.event_type,
            "subscription_id": delivery.subscription_id,
            "tenant": facts.tenant,
            "worker": self._worker,
            "url": "" if subscription is None else subscription.url.partition("?")[0],
            "waited_ms": ended["started_ms"] - facts.received_ms,
            "body_bytes": len(delivery.body),
            "trace_id": "" if trace is None else trace.trace_id,
            "span_id": "" if trace is None else trace.span_id,
            "replay_id": replay_of(delivery),
            **ended,
        }
        what = ended.get("status") or ended.get("cause") or ended["detail"]
        logger.info(
            "%s %s %s #%s %s", outcome, delivery.id, delivery.subscription_id, ended["attempt"], what,
            extra={"fields": fields},
        )  # fmt: skip
