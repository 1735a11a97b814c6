"""`distributary doctor`: look at everything that deliveries need, and say what to do where something is wrong.

What is looked at stands in `streams/cli/doctor_checks.py`.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from streams.cli.doctor_checks import examine
from streams.cli.options import AsJson, Bootstrap, Prefix, RegistryUrl, load_settings
from streams.cli.output import emit, say, watching
from streams.cli.running import run
from streams.core.diagnosis import Finding

_STYLES = {"ok": "", "note": "yellow", "wrong": "bold red"}


def doctor(
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Connect to this subscription's endpoint too; nothing is sent to it"),
    ] = None,
    late_s: Annotated[
        float, typer.Option(min=1, help="How many seconds an event or a delivery may wait for its worker")
    ] = 60.0,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    registry_url: RegistryUrl = None,
    as_json: AsJson = False,
) -> None:
    """Look at Kafka, topics, schemas, workers, clocks and subscriptions; the exit code is 1 when something is wrong.

    Each finding is one sentence, with what to do next where something has to be done. Nothing is changed.

    Example: distributary doctor --endpoint acme
    """
    settings = load_settings(bootstrap=bootstrap, prefix=prefix, registry_url=registry_url)

    async def main(_: asyncio.Event) -> list[Finding]:
        with watching.status("looking around"):
            return await examine(settings, int(late_s * 1000), endpoint)

    findings = run(main)
    for finding in findings:
        if as_json:
            emit(msgspec.structs.asdict(finding))
        else:
            say(f"{finding.level:<5}  {finding.area:<13}  {finding.sentence}", _STYLES[finding.level])
    if any(finding.level == "wrong" for finding in findings):
        raise typer.Exit(1)
