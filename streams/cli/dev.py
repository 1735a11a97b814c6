"""`distributary dev`: everything in one terminal, to try things against."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Annotated

import typer

from connectors.admin import apply_topics
from connectors.clock import SystemClock
from connectors.feed import Writer
from connectors.local_kafka import Cluster, kafka_cluster
from connectors.receiver import Endpoint, Post, Receiver, StandardWebhooksMissing, require_standardwebhooks
from connectors.registry_folder import FolderRegistry
from connectors.registry_rest import registry_app
from schemas.subscription import Subscription
from streams.cli.logs import log_to_stderr
from streams.cli.options import Bootstrap, Prefix, load_settings
from streams.cli.output import note, say, watching
from streams.cli.registry import WHAT
from streams.cli.running import CommandError, run
from streams.cli.serving import served
from streams.cli.values import subscription_value
from streams.new_secrets import new_secret
from streams.settings import Settings
from streams.wiring import ROLES, client_config, make_registry, register_own_schemas

SAMPLE = "sample"
PATH = "/webhooks"
BODY_CHARS_MAX = 200


def dev(
    data_dir: Annotated[
        Path | None, typer.Option(help="Keep Kafka's data and the schemas here", show_default="nothing is kept")
    ] = None,
    registry_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the schema registry; 0 takes a free one")
    ] = 0,
    receiver_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the sample receiver; 0 takes a free one")
    ] = 0,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
) -> None:
    """Run Kafka, a schema registry, a worker and a sample receiver in this terminal, until Ctrl-C.

    Prints what to export in another terminal, so that the other commands find it. With a cluster named by
    --bootstrap, that one is used. The sample receiver prints every webhook that arrives.

    Example: distributary dev --data-dir .distributary
    """
    load_settings(prefix=prefix)  # wrong ones are told before anything starts
    with ExitStack() as stack:
        cluster = stack.enter_context(
            kafka_cluster(given=bootstrap, data_dir=None if data_dir is None else data_dir / "kafka", progress=note)
        )
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="distributary-dev-")))
        run(lambda stop: _dev(cluster, prefix, folder / "schemas", registry_port, receiver_port, stop), graceful=True)


async def _dev(
    cluster: Cluster, prefix: str | None, folder: Path, registry_port: int, receiver_port: int, stop: asyncio.Event
) -> None:
    log_to_stderr("WARNING")
    async with AsyncExitStack() as stack:
        settings = load_settings(bootstrap=cluster.bootstrap, prefix=prefix, allow_private_networks=True)
        if settings.registry_url is None:
            store = FolderRegistry(settings.schemas or _made(folder), monotonic=SystemClock().monotonic)
            url = await stack.enter_async_context(served(registry_app(store), "127.0.0.1", registry_port, what=WHAT))
            settings = settings.model_copy(update={"registry_url": url, "schemas": None})
        await apply_topics(client_config(settings), settings.topics.specs(), settings.replication_factor)
        secret = new_secret()
        endpoint = Endpoint(PATH, secrets=_checkable(secret))
        receiver = Receiver([endpoint], port=receiver_port, on_post=_show)
        try:
            await stack.enter_async_context(receiver)
        except OSError as error:
            raise CommandError(f"the sample receiver cannot listen on port {receiver_port}: {error.strerror}") from None
        await _subscribe(settings, receiver.url(PATH), secret)
        from streams.app import Worker  # noqa: PLC0415 - as in worker.py

        await Worker(settings, ROLES, on_ready=lambda: _hint(settings, cluster, receiver)).run(stop)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _checkable(secret: str) -> tuple[str, ...]:
    """Signatures are checked where the package for it is installed; here it is no condition."""
    try:
        require_standardwebhooks()
    except StandardWebhooksMissing:
        return ()
    return (secret,)


async def _subscribe(settings: Settings, url: str, secret: str) -> None:
    registry = make_registry(settings)
    ids = await register_own_schemas(registry, settings.topics)
    now_ms = SystemClock().now_ms()
    sample = Subscription(
        id=SAMPLE,
        url=url,
        event_types=("*",),
        secrets=(secret,),
        description="the sample receiver of distributary dev",
        created_ms=now_ms,
        updated_ms=now_ms,
    )
    async with Writer(client_config(settings)) as writer:
        await writer.write(settings.topics.subscriptions, SAMPLE.encode(), subscription_value(ids.subscription, sample))


def _show(post: Post) -> None:
    sign = {True: "signature ok", False: "SIGNATURE BAD", None: "signature not checked"}[post.valid]
    body = post.body.decode("utf-8", "replace")
    cut = "…" if len(body) > BODY_CHARS_MAX else ""
    say(f"received {post.webhook_id} attempt {post.attempt}  {sign}  {body[:BODY_CHARS_MAX]}{cut}")


def _hint(settings: Settings, cluster: Cluster, receiver: Receiver) -> None:
    kafka = "Kafka" if cluster.version == "unknown" else f"Apache Kafka {cluster.version}"
    note(f"ready: {kafka}, a schema registry, a worker, and a receiver at {receiver.url(PATH)}", style="bold green")
    note("In another terminal:", style="")
    lines = [
        f"export DISTRIBUTARY_BOOTSTRAP={settings.bootstrap}",
        f"export DISTRIBUTARY_REGISTRY_URL={settings.registry_url}",
    ]
    if settings.prefix:
        lines.append(f"export DISTRIBUTARY_PREFIX={settings.prefix}")
    lines.append("""distributary send --type order.created --data '{"total": 12.5}'""")
    lines.append("distributary tail attempts --from-beginning")
    for line in lines:
        watching.print(f"  {line}", markup=False, soft_wrap=True)
