"""`distributary api`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer

from connectors.own_listeners import place_of_url
from streams.cli.logs import log_to_stderr
from streams.cli.options import Bootstrap, Prefix, RegistryUrl, load_settings
from streams.cli.output import note, say
from streams.cli.running import run
from streams.cli.serving import free_port, is_loopback, served
from streams.observed import observed


def api(
    host: Annotated[str, typer.Option(help="The address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8080,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None,
        typer.Option(envvar="DISTRIBUTARY_LOG_LEVEL", show_default="INFO"),
    ] = None,
) -> None:
    """Serve the HTTP API, until stopped.

    It keeps nothing itself: what is changed is written to Kafka, and what is shown is read from there, so any number
    of them may run. Prints its URL on stdout once it works. SIGTERM or Ctrl-C lets requests under way end; a second one
    stops at once. Let a proxy do TLS before you listen on more than this machine.

    Example: distributary api --bootstrap localhost:9092
    """
    from streams.api_app import api_app  # noqa: PLC0415 - imported by this command alone, not at every start

    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url, log_level=log_level)
    log_to_stderr(settings.log_level, settings.log_format)
    if not is_loopback(host):
        note(f"API keys are sent to {host} in the clear, unless a proxy in front of it does TLS")

    async def main(stop: asyncio.Event) -> None:
        async with observed(settings, "api") as shown:
            # A free port is taken first: no endpoint may be there, and that is to be known.
            taken = None if port else free_port(host, what="the API")
            listening = [(host, port) if taken is None else (host, taken.getsockname()[1])]
            if shown is not None:
                listening.append(place_of_url(shown.url))
            async with (
                api_app(settings, observed=shown, listening=listening) as app,
                served(app, host, port, what="the API", taken=taken) as url,
            ):
                say(f"ready: {url}")
                await stop.wait()

    run(main, graceful=True)
