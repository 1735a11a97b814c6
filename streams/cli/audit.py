"""`distributary audit`: does the engine keep its promises while everything around it fails? Options and the end."""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from streams.cli.audit_run import AuditSettings, run_acts
from streams.cli.audit_view import show_verdict
from streams.cli.output import emit, note
from streams.cli.running import run

#: Defaults; and those of `--quick`, which tries the audit itself more than the engine.
FULL = AuditSettings(seed=0, deliveries=200_000, minutes=8.0, faults=66, workers=3, brokers=3)
QUICK = AuditSettings(seed=0, deliveries=5_000, minutes=0.3, faults=10, workers=2, brokers=1)


def audit(
    seed: Annotated[int | None, typer.Option(min=0, help="Repeat what another run drew", show_default="drawn")] = None,
    deliveries: Annotated[
        int | None, typer.Option(min=100, max=5_000_000, help="How many at least", show_default="200000")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, max=600, help="In which events are sent and faults made", show_default="8")
    ] = None,
    faults: Annotated[int | None, typer.Option(min=0, max=5_000, help="How many", show_default="66")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=16, help="How many at the start", show_default="3")] = None,
    brokers: Annotated[
        int | None,
        typer.Option(min=1, max=5, help="Kafka nodes to be broken; below 3 none is", show_default="3"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small one: 5000 deliveries, 10 faults, one broker")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep logs and data also when all is well")] = False,
) -> None:
    """Kill, freeze, cut and restart everything around a real run, and account for every delivery.

    Starts Kafka, workers and receivers of its own. The last line of stdout is one JSON object; the exit code is 1 when
    a delivery is lost, doubled, out of order or without an end, or when duplicates are too many or unexplained. A seed
    draws the same events and faults again; when they hit is up to the machine.

    Example: distributary audit --quick
    """
    preset = QUICK if quick else FULL
    given = {"deliveries": deliveries, "minutes": minutes, "faults": faults, "workers": workers, "brokers": brokers}
    asked = msgspec.structs.replace(
        preset,
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        **{name: value for name, value in given.items() if value is not None},
    )
    folder = Path(tempfile.mkdtemp(prefix="distributary-audit-"))
    kept = True
    note(f"seed {asked.seed}; logs in {folder}")
    logging.getLogger("connectors.feed").setLevel(logging.ERROR)  # brokers that do not answer are meant here
    try:
        verdict, made, workers_ended = run(lambda _: run_acts(asked, folder))
        show_verdict(verdict, made, workers_ended)
        emit(msgspec.to_builtins(verdict.result))
        kept = keep or bool(verdict.problems)
        if verdict.problems:
            raise typer.Exit(1)
    finally:
        if kept:
            note(f"everything is kept in {folder}; the same once more: {_again(asked)}", style="yellow")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _again(asked: AuditSettings) -> str:
    options = " ".join(f"--{name} {value:g}" for name, value in msgspec.structs.asdict(asked).items())
    return f"distributary audit {options}"
