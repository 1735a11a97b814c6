"""`distributary history`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer

from connectors.admin import require_topics
from connectors.clock import SystemClock
from connectors.history.ingest import HistoryIngest, Retention
from streams.cli.logs import log_to_stderr
from streams.cli.options import Bootstrap, Prefix, RegistryUrl, Store, load_settings, open_registry
from streams.cli.output import many, note, say
from streams.cli.running import run
from streams.observed import Observed, observed
from streams.wiring import client_config, history_store

_DAY_MS = 86_400_000


def history(
    store: Store = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None,
        typer.Option(envvar="DISTRIBUTARY_LOG_LEVEL", show_default="INFO"),
    ] = None,
) -> None:
    """Keep every attempt in a database that can be searched, until stopped.

    It reads the topic of attempts from where the database ends, each attempt once, whatever dies; `attempts search` and
    the HTTP API look there. A second one waits until the first has gone. What is older than DISTRIBUTARY_HISTORY_DAYS
    is removed. Nothing else of Distributary needs it.

    Example: distributary history --store sqlite:////var/lib/distributary/history.db
    """
    settings = load_settings(
        history=store, bootstrap=bootstrap, prefix=prefix, registry_url=registry_url, log_level=log_level
    )
    log_to_stderr(settings.log_level, settings.log_format)
    config, topic, clock = client_config(settings), settings.topics.attempts, SystemClock()

    async def main(stop: asyncio.Event) -> None:
        async with observed(settings, "history") as shown:
            await keep(stop, shown)

    async def keep(stop: asyncio.Event, shown: Observed | None) -> None:
        await require_topics(config, [topic])
        kept = history_store(settings)
        acquired: list[str] = []

        def on_acquired() -> None:
            acquired.append(topic)
            say(f"ready: {topic}")

        try:
            async with open_registry(settings) as registry:
                ingest = HistoryIngest(
                    config,
                    topic,
                    kept,
                    registry.schema,
                    Retention(round(settings.history_days * _DAY_MS), settings.history_attempts_max),
                    now_ms=clock.now_ms,
                    monotonic=clock.monotonic,
                    on_acquired=on_acquired,
                    on_waiting=lambda: note("another process writes to this database; waiting until it has gone"),
                )
                if shown is not None:
                    shown.works(
                        lambda: [] if acquired else ["another process writes to this database"],
                        lambda: [
                            ("distributary_history_stored_total", (), float(ingest.stored)),
                            ("distributary_history_undecodable_total", (), float(ingest.undecodable)),
                        ],
                    )
                await ingest.run(stop)
                note(f"added {many(ingest.stored, 'attempt')}")
        finally:
            await kept.close()

    run(main, graceful=True)
