"""The commands of `distributary`, each imported when it is called or explained.

Most need Kafka's client, some an HTTP server; the list of them needs neither, and nobody should wait for what is not
used. So what the list says of each stands here, a second time (a test compares). This file runs no command.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class _Command(NamedTuple):
    """Under which title it is listed, where it is (`module:attribute` of streams.cli), and what the list says."""

    panel: str
    where: str
    summary: str


COMMANDS = {
    "dev": _Command(
        "Try it",
        "dev:dev",
        "Run Kafka, a schema registry, a worker and a sample receiver in this terminal, until Ctrl-C.",
    ),
    "demo": _Command(
        "Try it",
        "demo:demo",
        "Send events through healthy, flaky and dead endpoints on a real Kafka, and check what became of each.",
    ),
    "receive": _Command("Try it", "receive:receive", "Receive webhooks, show them, and answer as told, until Ctrl-C."),
    "audit": _Command(
        "Try it",
        "audit:audit",
        "Kill, freeze, cut and restart everything around a real run, and account for every delivery.",
    ),
    "worker": _Command(
        "Run it", "worker:worker", "Fan events out, deliver them, run replays, or all of it, until stopped."
    ),
    "api": _Command("Run it", "api:api", "Serve the HTTP API, until stopped."),
    "history": _Command(
        "Run it", "history:history", "Keep every attempt in a database that can be searched, until stopped."
    ),
    "registry": _Command(
        "Run it", "registry:registry", "Run a schema registry on a Kafka topic, until stopped: for those who have none."
    ),
    "doctor": _Command(
        "Run it",
        "doctor:doctor",
        "Look at Kafka, topics, schemas, workers, clocks and subscriptions;"
        " the exit code is 1 when something is wrong.",
    ),
    "catalog": _Command(
        "Run it",
        "catalog:catalog",
        "Write asyncapi.json (AsyncAPI 3.0) and index.html: every version of every schema of events, with an example.",
    ),
    "audit-log": _Command(
        "Use it", "audit_log:audit_log", "Print who changed what, the newest first. Secrets are never in it."
    ),
    "listen": _Command(
        "Use it",
        "listen:listen",
        "Show events as they come, and forward them to your machine as signed webhooks, until Ctrl-C.",
    ),
    "send": _Command(
        "Use it", "send:send", "Write events to the events topic and print their ids once Kafka has acknowledged them."
    ),
    "tail": _Command("Use it", "tail:tail", "Print what goes by on a topic, from now on, until Ctrl-C."),
    "topics": _Command("Run it", "topics:app", "Create and verify the topics."),
    "schemas": _Command("Run it", "schemas:app", "Register schemas, check proposed ones, and list them."),
    "secret-keys": _Command("Run it", "secret_keys:app", "Keys that the secrets of subscriptions are sealed with."),
    "subscriptions": _Command(
        "Use it", "subscription_group:app", "Manage subscriptions: who wants which events, and where they go."
    ),
    "sources": _Command("Use it", "sources:app", "Receive webhooks of providers as events."),
    "endpoints": _Command("Use it", "endpoints:app", "See the health of endpoints; disable one, and bring it back."),
    "keys": _Command("Use it", "keys:app", "Give and take access to the HTTP API."),
    "attempts": _Command(
        "Use it", "attempts:app", "What became of deliveries, from the database that `distributary history` fills."
    ),
    "dead": _Command("Use it", "dead:app", "Look at dead letters, send them again, or discard them."),
    "quarantine": _Command(
        "Use it", "quarantine:app", "Look at quarantined records, resend what is mended, discard others."
    ),
    "replay": _Command("Use it", "replay:app", "Send again what was sent before: count it first, watch it, pause it."),
}


class Commands(TyperGroup):
    """All of them. What is kept as `commands` are stand-ins, for lists and for guessing what was mistyped."""

    def __init__(self, **given: Any) -> None:
        """As typer makes it."""
        listed = {
            name: TyperCommand(name, help=command.summary, rich_help_panel=command.panel)
            for name, command in COMMANDS.items()
        }
        super().__init__(**given | {"commands": listed})
        self._listing = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command itself, but for the list of all."""
        if self._listing or cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        return _imported(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The list of all."""
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False


def _imported(name: str) -> Any:
    panel, where, _ = COMMANDS[name]
    module, _, attribute = where.partition(":")
    found = getattr(importlib.import_module(f"streams.cli.{module}"), attribute)
    holder = typer.Typer(rich_markup_mode="rich")
    holder.callback()(lambda: None)  # or it would be no group
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=name, rich_help_panel=panel)
    else:
        holder.command(name, rich_help_panel=panel)(found)
    group: Any = typer.main.get_command(holder)
    _flow(group.commands[name])
    return group.commands[name]


def _flow(command: Any) -> None:
    """Let the terminal break the lines of help, which would keep those of the docstrings besides."""
    paragraphs = (command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for each in getattr(command, "commands", {}).values():
        _flow(each)
