"""Changing subscriptions that are there, each on what it is at that moment: with the pen of the control plane.

However many commands and API processes change them at once, no change is lost; each has its record in the audit trail.
This file does not say what is changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from connectors.admin import require_topics
from connectors.pen import Decide, Pen
from connectors.subscriptions import ById, SubscriptionsTable
from schemas.audit import Asked, audit_out, audit_record
from schemas.codec import wire_header
from schemas.frame import Out
from schemas.subscription import Subscription, checked, subscription_to_json
from schemas.topics import Topics
from streams.cli.options import open_registry
from streams.cli.output import steps
from streams.cli.values import subscription_value
from streams.cli.writing import writing
from streams.settings import Settings
from streams.wiring import OwnSchemas, client_config, register_own_schemas

#: Changes that are asked for at a time; the pen writes them in one transaction.
CHUNK = 200

#: What a subscription becomes; the same one for no change. It may raise, and then nothing is written.
Edit = Callable[[Subscription], Subscription]


class Editor:
    """All subscriptions in force, and the way to change one."""

    def __init__(self, topics: Topics, own: OwnSchemas, index: ById, pen: Pen, asked: Asked) -> None:
        """`asked` says by whom and when, for the audit trail."""
        self._topic = topics.subscriptions
        self._audit_topic = topics.audit
        #: The registry's ids of our records.
        self.own = own
        self._index = index
        self._pen = pen
        #: By whom and when.
        self.asked = asked

    def get(self, subscription_id: str) -> Subscription | None:
        """The one of this id, as of now."""
        return self._index.get(subscription_id)

    def all(self) -> list[Subscription]:
        """All of them, by tenant and id."""
        return list(self._index.after(None))

    async def write(self, subscription_id: str, decide: Decide) -> None:
        """Other records about one; errors as of `change`."""
        await self._pen.change(decide, about=("subscription", subscription_id))

    async def change(self, subscription_id: str, edit: Edit, *, action: str = "changed") -> Subscription | None:
        """Change one, on what it is when nobody else may write; what it is then, or None when there is none. `action`
        is the word for it in the audit trail.

        What `edit` raises; PenError; RecordTooLargeError.
        """

        def decide() -> list[Out]:
            before = self._index.get(subscription_id)
            after = before if before is None else checked(edit(before))
            if after is None or after == before:
                return []
            return [self._out(after, as_json=False), self.audit(action, after, before, after)]

        await self._pen.change(decide, about=("subscription", subscription_id))
        return self._index.get(subscription_id)

    async def put(
        self,
        subscription_id: str,
        made: Callable[[Subscription | None], Subscription],
        *,
        as_json: bool = False,
        further: Callable[[Subscription], list[Out]] = lambda _: [],
    ) -> None:
        """Write what is `made` of the one that is there, if any, with `further` records. What they raise; errors as of
        `change`."""

        def decide() -> list[Out]:
            before = self._index.get(subscription_id)
            after = made(before)
            action = "created" if before is None else "replaced"
            audit = self.audit(action, after, before, after)
            return [self._out(after, as_json=as_json), audit, *further(after)]

        await self._pen.change(decide, about=("subscription", subscription_id))

    async def delete(self, subscription_id: str) -> bool:
        """Take one out; whether it was there. Errors as of `change`."""
        there = False

        def decide() -> list[Out]:
            nonlocal there
            before = self._index.get(subscription_id)
            there = before is not None
            if before is None:
                return []
            return [
                (self._topic, subscription_id.encode(), None, -1, None),
                self.audit("deleted", before, before, None),
            ]

        await self._pen.change(decide, about=("subscription", subscription_id))
        return there

    def _out(self, subscription: Subscription, *, as_json: bool) -> Out:
        value = (
            subscription_to_json(subscription) if as_json else subscription_value(self.own.subscription, subscription)
        )
        return self._topic, subscription.id.encode(), value, -1, None

    def audit(
        self, action: str, about: Subscription, before: object | None, after: object | None, kind: str = "subscription"
    ) -> Out:
        """The record of a change of a subscription, or of what belongs to it; secrets are hidden."""
        record = audit_record(self.asked, action, kind, about.id, about.tenant, before, after)
        return audit_out(self._audit_topic, wire_header(self.own.audit_record), record)


@asynccontextmanager
async def open_editor(settings: Settings) -> AsyncIterator[Editor]:
    """An editor whose table has caught up. What is bad on the topic is logged as a warning and left out."""
    config, topics = client_config(settings), settings.topics
    await require_topics(config, [topics.subscriptions, topics.audit])
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(open_registry(settings))
        own = await register_own_schemas(registry, topics)
        index = ById()
        with steps("reading subscriptions") as progress:
            table = SubscriptionsTable(
                config, topics.subscriptions, index=index, schemas=registry, on_progress=progress.at
            )
            stack.push_async_callback(table.stop)
            await table.start()
        pen, asked = await stack.enter_async_context(writing(settings, table))
        yield Editor(topics, own, index, pen, asked)
