"""The `distributary` command: its groups of commands, and the place where errors become sentences."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from streams.cli import (
    api,
    attempts,
    audit,
    audit_log,
    catalog,
    dead,
    demo,
    dev,
    doctor,
    endpoints,
    history,
    keys,
    listen,
    quarantine,
    receive,
    registry,
    replay,
    schemas,
    secret_keys,
    send,
    sources,
    subscription_create,
    subscription_secrets,
    subscriptions,
    tail,
    topics,
    verify,
    worker,
)
from streams.cli.running import report

app = typer.Typer(
    help="Kafka in, webhooks out.\n\nSettings: options, then DISTRIBUTARY_* variables, then distributary.toml.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("dev", rich_help_panel="Try it")(dev.dev)
app.command("demo", rich_help_panel="Try it")(demo.demo)
app.command("receive", rich_help_panel="Try it")(receive.receive)
app.command("audit", rich_help_panel="Try it")(audit.audit)
app.command("worker", rich_help_panel="Run it")(worker.worker)
app.command("api", rich_help_panel="Run it")(api.api)
app.command("history", rich_help_panel="Run it")(history.history)
app.command("registry", rich_help_panel="Run it")(registry.registry)
app.command("doctor", rich_help_panel="Run it")(doctor.doctor)
app.add_typer(topics.app, name="topics", rich_help_panel="Run it")
app.add_typer(schemas.app, name="schemas", rich_help_panel="Run it")
app.add_typer(secret_keys.app, name="secret-keys", rich_help_panel="Run it")
app.command("catalog", rich_help_panel="Run it")(catalog.catalog)
subscriptions.app.command("create")(subscription_create.create)
subscriptions.app.command("rotate-secret")(subscription_secrets.rotate_secret)
subscriptions.app.command("reencrypt")(subscription_secrets.reencrypt)
subscriptions.app.command("verify")(verify.verify)
app.add_typer(subscriptions.app, name="subscriptions", rich_help_panel="Use it")
app.add_typer(sources.app, name="sources", rich_help_panel="Use it")
app.add_typer(endpoints.app, name="endpoints", rich_help_panel="Use it")
app.add_typer(keys.app, name="keys", rich_help_panel="Use it")
app.command("audit-log", rich_help_panel="Use it")(audit_log.audit_log)
app.add_typer(attempts.app, name="attempts", rich_help_panel="Use it")
app.add_typer(dead.app, name="dead", rich_help_panel="Use it")
app.add_typer(quarantine.app, name="quarantine", rich_help_panel="Use it")
app.command("listen", rich_help_panel="Use it")(listen.listen)
app.command("send", rich_help_panel="Use it")(send.send)
app.command("tail", rich_help_panel="Use it")(tail.tail)
app.add_typer(replay.app, name="replay", rich_help_panel="Use it")


class _State:
    """What the root's options say."""

    debug = False


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks", envvar="DISTRIBUTARY_DEBUG")] = False,
) -> None:
    """The options of every command."""
    _State.debug = debug


def main() -> None:
    """The entry point. Exit codes: 0, 1 for an error, 2 for wrong usage, 130 when interrupted."""
    try:
        app(prog_name="distributary")
    except Exception as error:  # noqa: BLE001 - whatever it is, people get a sentence
        report(error, debug=_State.debug)
        sys.exit(1)
