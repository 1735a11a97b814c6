"""`distributary worker`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer

from streams.cli.logs import log_to_stderr
from streams.cli.options import Bootstrap, Prefix, RegistryUrl, load_settings
from streams.cli.output import say
from streams.cli.running import run
from streams.wiring import ROLES


def worker(
    role: Annotated[
        Literal["fan-out", "delivery", "replay", "all"], typer.Option(help="What this worker does")
    ] = "all",
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    worker_id: Annotated[
        str | None,
        typer.Option(
            envvar="DISTRIBUTARY_WORKER_ID",
            help="Stable and unique per worker, as a pod's name: a restart ends what its predecessor left open",
        ),
    ] = None,
    allow_private_networks: Annotated[
        bool | None,
        typer.Option(
            "--allow-private-networks",
            envvar="DISTRIBUTARY_ALLOW_PRIVATE_NETWORKS",
            help="Deliver to loopback and private addresses too",
        ),
    ] = None,
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None,
        typer.Option(envvar="DISTRIBUTARY_LOG_LEVEL", show_default="INFO"),
    ] = None,
) -> None:
    """Fan events out, deliver them, run replays, or all of it, until stopped.

    Prints one line on stdout once it works: partitions are assigned and the subscriptions are known. SIGTERM or Ctrl-C
    lets what is under way end and be settled; a second one stops at once. Any number of workers share the work; of
    those that run replays one is active, and another one goes on when it ends.

    Example: distributary worker --role delivery --bootstrap localhost:9092 --worker-id delivery-0
    """
    settings = load_settings(
        bootstrap=bootstrap,
        prefix=prefix,
        registry_url=registry_url,
        worker_id=worker_id,
        allow_private_networks=allow_private_networks,
        log_level=log_level,
    )
    from streams.app import Worker  # noqa: PLC0415 - Faust takes a third of a second, which other commands need not wait

    log_to_stderr(settings.log_level, settings.log_format)
    roles = ROLES if role == "all" else (role,)

    async def main(stop: asyncio.Event) -> None:
        await Worker(settings, roles, on_ready=lambda: say(f"ready: {', '.join(roles)}")).run(stop)

    run(main, graceful=True)
