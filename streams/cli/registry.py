"""`distributary registry`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from connectors.registry_rest import registry_app
from connectors.registry_topic import TopicStore, prepare_topic
from streams.cli.logs import log_to_stderr
from streams.cli.options import Bootstrap, load_settings
from streams.cli.output import note, say
from streams.cli.running import run
from streams.cli.serving import is_loopback, served
from streams.observed import observed
from streams.wiring import client_config

WHAT = "the schema registry"


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
    log_to_stderr(settings.log_level, settings.log_format)
    if not is_loopback(host) and settings.registry_users is None:
        note(f"anyone who reaches {host} may change schemas: set DISTRIBUTARY_REGISTRY_USERS=user:password")

    async def main(stop: asyncio.Event) -> None:
        async with observed(settings, "registry") as shown:
            await prepare_topic(config, settings.registry_topic, settings.replication_factor)
            store = TopicStore(config, settings.registry_topic)
            try:
                await store.start()
                app = registry_app(store, settings.registry_users)
                if shown is not None:
                    shown.serves(app, list)
                async with served(app, host, port, what=WHAT) as url:
                    say(f"ready: {url}")
                    await stop.wait()
            finally:
                await store.close()

    run(main, graceful=True)
