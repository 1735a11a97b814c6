"""`distributary attempts`: the database of attempts, searched."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from connectors.api.attempts import status_range
from connectors.clock import SystemClock
from connectors.history.attempts import LoggedAttempt
from connectors.history.histogram import KINDS, percentile_us
from connectors.history.store import LIMIT_MAX, Wanted
from schemas.delivery import OUTCOMES
from streams.cli.options import AsJson, Store, load_settings, time_option_ms
from streams.cli.output import emit, note, say
from streams.cli.running import run
from streams.cli.tail import attempt_line
from streams.cli.values import iso, readable
from streams.wiring import history_store

app = typer.Typer(help="What became of deliveries, from the database that `distributary history` fills.")

_HOUR_MS = 3_600_000
FAILURES = tuple(outcome for outcome in OUTCOMES if outcome not in ("delivered", "cancelled"))


@app.command()
def search(
    delivery: Annotated[str | None, typer.Option(help="Of this delivery: the webhook-id")] = None,
    event: Annotated[str | None, typer.Option(help="Of this event")] = None,
    subscription: Annotated[str | None, typer.Option(help="Of this subscription")] = None,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant")] = None,
    outcome: Annotated[list[str] | None, typer.Option(help=f"Repeatable: {', '.join(OUTCOMES)}")] = None,
    failed: Annotated[bool, typer.Option("--failed", help=f"As {', '.join(FAILURES)}")] = False,
    status: Annotated[str | None, typer.Option(help="404, or 5xx for all of them; 0: no response")] = None,
    since: Annotated[str | None, typer.Option(help="Not before this time: 2026-08-01T12:00:00Z")] = None,
    until: Annotated[str | None, typer.Option(help="Before this time")] = None,
    text: Annotated[str | None, typer.Option(help="In the detail, the cause, the response or the event type")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many")] = 50,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Print attempts, the newest first.

    Example: distributary attempts search --subscription acme --failed --since 2026-08-01T12:00:00Z
    """
    outcomes = tuple(outcome or ()) + (FAILURES if failed else ())
    for each in outcomes:
        if each not in OUTCOMES:
            raise typer.BadParameter(f"{each!r} is none of {', '.join(OUTCOMES)}", param_hint="--outcome")
    wanted = Wanted(
        delivery_id=delivery,
        event_id=event,
        subscription_id=subscription,
        tenant=tenant,
        outcomes=outcomes,
        status=None if status is None else _status(status),
        since_ms=time_option_ms(since, "--since") if since else 0,
        until_ms=time_option_ms(until, "--until") if until else None,
        text=text,
    )
    settings = load_settings(history=store)

    async def main(_: asyncio.Event) -> int:
        kept = history_store(settings)
        count, before = 0, None
        try:
            while count < limit:
                page = await kept.search(wanted, limit=min(LIMIT_MAX, limit - count), before=before)
                for attempt in page.attempts:
                    document = described(attempt)
                    emit(document) if as_json else say(*attempt_line(iso(attempt.started_ms), document))
                count += len(page.attempts)
                before = page.next
                if before is None:
                    break
        finally:
            await kept.close()
        return count

    if not run(main):
        note("no attempt fits")


@app.command()
def latency(
    subscription: Annotated[str, typer.Argument(help="Its id", metavar="SUBSCRIPTION")],
    since: Annotated[
        str | None, typer.Option(help="From the hour of this time on", show_default="24 hours ago")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Up to the hour of this time", show_default="now")] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Print how long an endpoint takes: its POSTs, and events from Kafka to the end of the POST that delivered them.

    Percentiles are at most 9 % too high.

    Example: distributary attempts latency acme --since 2026-08-01T00:00:00Z
    """
    now_ms = SystemClock().now_ms()
    since_ms = time_option_ms(since, "--since") if since else now_ms - 24 * _HOUR_MS
    until_ms = time_option_ms(until, "--until") if until else now_ms
    settings = load_settings(history=store)

    async def main(_: asyncio.Event) -> None:
        kept = history_store(settings)
        try:
            found = await kept.latencies(subscription, since_ms, until_ms)
        finally:
            await kept.close()
        for kind in KINDS:
            counts = found.counts[kind]
            count = sum(counts.values())
            values = {f"p{part * 100:g}_us": percentile_us(counts, part) for part in PARTS}
            if as_json:
                emit({"kind": kind, "count": count, **values})
            else:
                shown = "  ".join(f"{name[:-3]} {_milliseconds(value)}" for name, value in values.items())
                say(f"{kind:<9}  {count:>9,}  {shown}")

    run(main)


#: The percentiles that are shown.
PARTS = (0.5, 0.9, 0.99)


def _milliseconds(us: float | None) -> str:
    return "-" if us is None else f"{us / 1000:,.1f} ms"


def _status(text: str) -> tuple[int, int]:
    try:
        return status_range(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--status") from None


def described(attempt: LoggedAttempt) -> dict[str, object]:
    """As JSON has it, as `tail attempts` does."""
    found: dict[str, object] = readable(msgspec.structs.asdict(attempt))
    return found
