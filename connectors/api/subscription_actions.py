"""What is done with a subscription beyond its fields: states, secrets, a test ping, verification.

Asking an endpoint, sealing, and making the delivery of a ping are services of the composition root.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from connectors.api.control import Control
from connectors.api.preconditions import ETAG, IF_MATCH
from connectors.api.problems import ProblemError
from connectors.api.routes import Answer, Call, Handler, Reply, Route
from connectors.api.subscription_changes import KIND, Editing, about, shown, update
from connectors.api.subscription_documents import SubscriptionView
from connectors.api.subscriptions import TAG, Listing, found
from schemas import codec
from schemas.endpoint import EndpointState, Operation, encode_operation, encode_state, url_hash
from schemas.errors import UnsealableError
from schemas.frame import Out
from schemas.rotation import OVERLAP_MS, OVERLAP_MS_MAX, expiries, rotated
from schemas.subscription import State, Subscription
from schemas.topics import Topics


class Actions:
    """A service. `open_` opens what is sealed (UnsealableError); `ping` makes the delivery of a test event: (its
    record, the event's id, the delivery's id)."""

    def __init__(
        self,
        topics: Topics,
        state_schema: int,
        operation_schema: int,
        *,
        open_: Callable[[Subscription], Subscription],
        ping: Callable[[Subscription, int], tuple[Out, str, str]],
    ) -> None:
        self._topics = topics
        self._state_header = codec.wire_header(state_schema)
        self._operation_header = codec.wire_header(operation_schema)
        self.open = open_
        self.ping = ping

    def healthy(self, subscription: Subscription, actor: str, now_ms: int) -> list[Out]:
        """The records that say that an endpoint counts as healthy, by its owner's word."""
        key = subscription.id.encode()
        state = EndpointState(subscription_id=subscription.id, url_hash=url_hash(subscription.url), changed_ms=now_ms)
        operation = Operation(
            kind="endpoint.enabled",
            subscription_id=subscription.id,
            tenant=subscription.tenant,
            at_ms=now_ms,
            reason="owner",
            detail=f"by {actor}",
        )
        return [
            (self._topics.endpoints_state, key, encode_state(self._state_header, state), -1, None),
            (self._topics.operations, key, encode_operation(self._operation_header, operation), -1, None),
        ]


class Verifying:
    """A service: asks an endpoint whether it is its owner's. The answer is what confirms a subscription, or why not."""

    def __init__(self, ask: Callable[[Subscription], Awaitable[Callable[[Subscription], Subscription] | str]]) -> None:
        self.ask = ask


# --- states -----------------------------------------------------------------------------------------------------------


async def _turn(call: Call, state: State, action: str) -> Reply:
    return shown(call, await update(call, action, lambda before: msgspec.structs.replace(before, state=state)))


async def pause_subscription(call: Call) -> Reply:
    """What comes is kept."""
    return await _turn(call, "paused", "paused")


async def resume_subscription(call: Call) -> Reply:
    """What was kept is sent."""
    return await _turn(call, "active", "resumed")


async def disable_subscription(call: Call) -> Reply:
    """What comes is given up."""
    return await _turn(call, "disabled", "disabled")


async def enable_subscription(call: Call) -> Reply:
    """Active, and its endpoint counts as healthy."""
    control, actions, listing = call.get(Control), call.get(Actions), call.get(Listing)

    def healthy(after: Subscription) -> list[Out]:
        if listing.shown(after)["endpoint"].status == "healthy":
            return []
        return actions.healthy(after, call.principal.actor, control.now_ms())

    def change(before: Subscription) -> Subscription:
        return msgspec.structs.replace(before, state="active")

    return shown(call, await update(call, "enabled", change, further=healthy))


# --- ping and verification --------------------------------------------------------------------------------------------


class Pinged(msgspec.Struct):
    """The test event, on its way."""

    event_id: str
    delivery_id: str


async def ping_subscription(call: Call) -> Reply:
    """A delivery of the type webhook.ping, like any other."""
    control, actions = call.get(Control), call.get(Actions)
    sent: list[Pinged] = []

    def decide() -> list[Out]:
        subscription = found(call)
        if subscription.state != "active":
            raise ProblemError(409, f"the subscription is {subscription.state}; enable it first")
        if subscription.unverified:
            raise ProblemError(409, "the subscription's URL is not verified; POST to …/verify first")
        record, event_id, delivery_id = actions.ping(subscription, control.now_ms())
        sent[:] = [Pinged(event_id, delivery_id)]
        after = {"event_id": event_id}
        audit = control.audit(call, "pinged", KIND, subscription.id, subscription.tenant, None, after)
        return [record, audit]

    await control.change(decide, about=about(call.params["id"]))
    return Reply(sent[0], status=202)


async def verify_subscription(call: Call) -> Reply:
    """Ask its endpoint now."""
    subscription = found(call)
    if subscription.verification == "none":
        raise ProblemError(409, "the subscription asks for no verification; set `verification` first")
    answer = await call.get(Verifying).ask(subscription)
    if isinstance(answer, str):
        raise ProblemError(409, answer)
    asked = subscription.url, subscription.verification

    def change(before: Subscription) -> Subscription:
        if (before.url, before.verification) != asked:
            raise ProblemError(409, "the subscription was changed while its endpoint was asked; verify it again")
        return answer(before)

    return shown(call, await update(call, "verified", change))


# --- secrets ----------------------------------------------------------------------------------------------------------


class Rotation(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How a secret is replaced."""

    overlap_ms: Annotated[
        int, Meta(ge=0, le=OVERLAP_MS_MAX, description="How long the ones before sign as well, in milliseconds")
    ] = OVERLAP_MS
    secret: Annotated[str | None, Meta(description="One of your own; else one is made")] = None


class Rotated(msgspec.Struct, kw_only=True):
    """The new secret, shown this once, and when those before it end."""

    secret: str
    previous_expire_ms: int
    etag: str


async def rotate_secret(call: Call) -> Reply:
    """A new secret in front; the ones before go on for a while."""
    editing, actions, control = call.get(Editing), call.get(Actions), call.get(Control)
    secret = call.body.secret or editing.new_secret()
    now_ms = control.now_ms()

    def change(before: Subscription) -> Subscription:
        return rotated(_opened(actions, before), secret, now_ms, call.body.overlap_ms)

    subscription = await update(call, "secret-rotated", change)
    etag = call.get(Listing).etag(subscription.id)
    said = Rotated(secret=secret, previous_expire_ms=now_ms + call.body.overlap_ms, etag=etag)
    return Reply(said, headers={"ETag": etag})


class RevealedSecret(msgspec.Struct):
    """`expires_ms` 0: never."""

    secret: str
    expires_ms: int


class Revealed(msgspec.Struct):
    """The newest first."""

    secrets: list[RevealedSecret]


async def reveal_secret(call: Call) -> Reply:
    """The signing secrets in the clear; that they were shown stands in the audit trail."""
    control = call.get(Control)
    revealed: list[RevealedSecret] = []

    def decide() -> list[Out]:
        subscription = found(call)
        opened = _opened(call.get(Actions), subscription)
        revealed[:] = map(RevealedSecret, opened.secrets, expiries(opened))
        return [control.audit(call, "secret-revealed", KIND, subscription.id, subscription.tenant, None, None)]

    await control.change(decide, about=about(call.params["id"]))
    return Reply(Revealed(revealed))


def _opened(actions: Actions, subscription: Subscription) -> Subscription:
    try:
        return actions.open(subscription)
    except UnsealableError as error:
        raise ProblemError(409, str(error)) from None


_SHOWN = Answer(type=SubscriptionView, description="The subscription as it is now", headers=(ETAG,))


def _action(name: str, handler: Handler, summary: str, **more: object) -> Route:
    options: dict[str, object] = {"scope": "subscriptions:write", "answers": {200: _SHOWN}, "headers": (IF_MATCH,)}
    options |= {"problems": (400, 412, 422)}
    return Route(
        method="POST",
        path=f"/v1/subscriptions/{{id}}/{name}",
        handler=handler,
        summary=summary,
        tag=TAG,
        **(options | more),  # type: ignore[arg-type]
    )


ROUTES = [
    _action("pause", pause_subscription, "Hold deliveries back until it is resumed"),
    _action("resume", resume_subscription, "Deliver again, what was held back first"),
    _action("disable", disable_subscription, "Give up deliveries from now on"),
    _action("enable", enable_subscription, "Deliver again, and count the endpoint as healthy"),
    _action(
        "ping",
        ping_subscription,
        "Send a test event to this endpoint",
        headers=(),
        answers={202: Answer(type=Pinged, description="It is on its way")},
        problems=(409,),
    ),
    _action(
        "verify",
        verify_subscription,
        "Ask the endpoint whether it wants what would be sent",
        headers=(),
        problems=(400, 409, 412, 422),
    ),
    _action(
        "rotate-secret",
        rotate_secret,
        "Replace the signing secret without a moment in which neither is right",
        body=Rotation,
        answers={200: Answer(type=Rotated, description="The new secret, shown this once", headers=(ETAG,))},
        problems=(409, 412),
    ),
    _action(
        "reveal-secret",
        reveal_secret,
        "Show the signing secrets",
        scope="secrets:reveal",
        headers=(),
        answers={200: Answer(type=Revealed, description="The secrets")},
        problems=(409,),
    ),
]
