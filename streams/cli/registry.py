"""`distributary registry`."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer
from aiohttp import web

from connectors.registry_rest import registry_app
from connectors.registry_topic import TopicStore, prepare_topic
from streams.cli.options import Bootstrap, load_settings
from streams.cli.output import note, say
from streams.cli.running import CommandError, log_to_stderr, run
from streams.wiring import client_config

#: What requests under way get at a stop.
SHUTDOWN_SECONDS = 5.0


def registry(
    host: Annotated[str, typer.Option(help="The address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8081,
    topic: Annotated[
        str | None,
        typer.Option(
            envvar="DISTRIBUTARY_REGISTRY_TOPIC",
            help="The compacted topic that holds the schemas; created if missing",
            show_default="_schemas",
        ),
    ] = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Run a schema registry on a Kafka topic, until stopped: for those who have none.

    Producers, consumers and Distributary use it by URL, as any Confluent-compatible registry: Avro schemas, subjects
    and versions, compatibility levels (BACKWARD where none is set), references, soft and permanent deletion. The topic
    has the standard's format, so a full registry may take it over later; stop this one first.

    A second process on the same topic is a stand-by: either answers what it is asked, and who is asked to write takes
    over. Prints its URL on stdout once it works. Anyone who reaches it may write: set
    DISTRIBUTARY_REGISTRY_USERS=user:password before you listen on more than this machine, and let a proxy do TLS.

    Example: distributary registry --bootstrap localhost:9092
    """
    settings = load_settings(bootstrap=bootstrap, registry_topic=topic)
    config = client_config(settings)
    log_to_stderr(settings.log_level)
    if not _is_loopback(host) and settings.registry_users is None:
        note(f"anyone who reaches {host} may change schemas: set DISTRIBUTARY_REGISTRY_USERS=user:password")

    async def main(stop: asyncio.Event) -> None:
        await prepare_topic(config, settings.registry_topic, settings.replication_factor)
        store = TopicStore(config, settings.registry_topic)
        try:
            await store.start()
            async with served(registry_app(store, settings.registry_users), host, port) as url:
                say(f"ready: {url}")
                await stop.wait()
        finally:
            await store.close()

    run(main, graceful=True)


@asynccontextmanager
async def served(app: web.Application, host: str, port: int) -> AsyncIterator[str]:
    """The application's URL while it is served. CommandError when the address is taken."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise CommandError(
                f"the schema registry cannot listen on port {port} of {host}: {error.strerror}; choose another port"
            ) from None
        address = runner.addresses[0]
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        yield f"http://{shown}:{address[1]}"
    finally:
        await runner.cleanup()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
