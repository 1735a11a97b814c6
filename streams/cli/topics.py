"""`distributary topics apply | check`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from connectors.admin import apply_topics, check_topics
from streams.cli.options import AsJson, Bootstrap, Prefix, load_settings
from streams.cli.output import complain, emit, note, say, watching
from streams.cli.running import run
from streams.wiring import client_config

app = typer.Typer(help="Create and verify the topics.", no_args_is_help=True)


@app.command("apply")
def apply(
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    partitions: Annotated[
        int | None,
        typer.Option(
            help="Of each partitioned topic that is created", envvar="DISTRIBUTARY_PARTITIONS", show_default="8"
        ),
    ] = None,
    replication_factor: Annotated[
        int | None, typer.Option(help="Of each topic that is created", show_default="the cluster's default")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create the topics that are missing, and correct settings that differ.

    Doing it again changes nothing. Partitions are never added to a topic that exists.

    Example: distributary topics apply --bootstrap localhost:9092 --partitions 12
    """
    settings = load_settings(
        bootstrap=bootstrap, prefix=prefix, partitions=partitions, replication_factor=replication_factor
    )
    config = client_config(settings)

    async def main(_: asyncio.Event) -> list[str]:
        with watching.status("asking Kafka"):
            return await apply_topics(config, settings.topics.specs(), settings.replication_factor)

    done = run(main)
    if as_json:
        emit({"done": done})
        return
    for sentence in done:
        say(sentence)
    if not done:
        note("nothing to do: every topic is as it should be")


@app.command("check")
def check(bootstrap: Bootstrap = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """Compare the topics with what the engine needs; the exit code is 1 when something differs.

    Example: distributary topics check --bootstrap localhost:9092
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    config = client_config(settings)
    specs = settings.topics.specs()

    async def main(_: asyncio.Event) -> list[str]:
        with watching.status("asking Kafka"):
            return await check_topics(config, specs)

    problems = run(main)
    if as_json:
        emit({"problems": problems})
    elif problems:
        for problem in problems:
            say(problem)
        complain("the topics are not as they should be; run `distributary topics apply`")
    else:
        say(f"all {len(specs)} topics are as they should be")
    if problems:
        raise typer.Exit(1)
