"""Creating, replacing, changing and deleting subscriptions.

Each change is decided with the pen in hand, on what the table holds then, and answered once the table has it. What may
stand in a subscription is said in `schemas/subscription.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from connectors.api.control import Control
from connectors.api.preconditions import ETAG, IF_MATCH, IF_NONE_MATCH, require_absent, require_match
from connectors.api.principal import acts_for
from connectors.api.problems import Fault, ProblemError, invalid
from connectors.api.routes import JSON, Answer, Call, Header, Reply, Route
from connectors.api.subscription_documents import (
    CreatedView,
    SubscriptionCreate,
    SubscriptionPatch,
    SubscriptionView,
    SubscriptionWrite,
    made,
    patched,
    written_fields,
)
from connectors.api.subscription_start import Start, start_asked
from connectors.api.subscriptions import TAG, Listing, found
from schemas.credentials import Verification, is_sealed
from schemas.errors import InvalidSubscriptionError
from schemas.event import DEFAULT_TENANT
from schemas.frame import Out
from schemas.rotation import without_expired
from schemas.sealing import texts_of
from schemas.subscription import Subscription

KIND = "subscription"
MERGE_PATCH = "application/merge-patch+json"


class Editing:
    """A service: how subscriptions are written. `encode` makes the value on the topic; `seal` seals what is secret;
    `new_secret` and `new_id` draw; `refusal` is why a URL can be no endpoint, as far as that is known without
    looking up names; `verification` is what holds where a subscription does not say."""

    def __init__(
        self,
        topic: str,
        states_topic: str,
        *,
        encode: Callable[[Subscription], bytes],
        seal: Callable[[Subscription], Subscription],
        new_secret: Callable[[], str],
        new_id: Callable[[], str],
        refusal: Callable[[str], str | None],
        verification: Verification,
    ) -> None:
        self._topic = topic
        self._states_topic = states_topic
        self._encode = encode
        self.seal = seal
        self.new_secret = new_secret
        self.new_id = new_id
        self.verification = verification
        self._refusal = refusal

    def put(self, subscription: Subscription, before: Subscription | None) -> Out:
        """Its record. InvalidSubscriptionError for sealed text that did not stand in it before, and for a new URL that
        deliveries may not go to."""
        known = texts_of(before) if before is not None else ()
        if any(is_sealed(text) and text not in known for text in texts_of(subscription)):
            raise InvalidSubscriptionError("secrets: a sealed text is not taken; send what it was made of")
        if (before is None or before.url != subscription.url) and (sentence := self._refusal(subscription.url)):
            raise InvalidSubscriptionError(f"url: {sentence}")
        return self._topic, subscription.id.encode(), self._encode(self.seal(subscription)), -1, None

    def delete(self, subscription_id: str, *, state: bool) -> list[Out]:
        """The end of it, and of the `state` of its endpoint where it has one."""
        topics = [self._topic, self._states_topic] if state else [self._topic]
        return [(topic, subscription_id.encode(), None, -1, None) for topic in topics]


def about(subscription_id: str) -> tuple[str, str]:
    """What a change of this subscription is about."""
    return KIND, subscription_id


def refused(error: InvalidSubscriptionError) -> ProblemError:
    """The rule that a body breaks: the sentence names the field, or msgspec's message ends with the place."""
    sentence = str(error)
    name, colon, _ = sentence.partition(":")
    path = f"/{name}" if colon and name in Subscription.__struct_fields__ else ""
    return ProblemError(422, sentence, errors=[Fault(path, sentence)])


def written(editing: Editing, after: Subscription, before: Subscription | None) -> Out:
    """Its record. Problem 422."""
    try:
        return editing.put(after, before)
    except InvalidSubscriptionError as error:
        raise refused(error) from None


async def update(
    call: Call,
    action: str,
    change: Callable[[Subscription], Subscription],
    *,
    match: bool = False,
    further: Callable[[Subscription], list[Out]] | None = None,
) -> Subscription:
    """Change the subscription that the path names, which is nothing to write when it stays as it is.

    `match`: the request must say which version it is about. `further` records go into the same transaction. Problems
    404, 412, 422 and 428.
    """
    control, editing, listing = call.get(Control), call.get(Editing), call.get(Listing)

    def decide() -> list[Out]:
        before = found(call)
        require_match(call, listing.etag(before.id), needed=match)
        try:
            after = change(before)
        except InvalidSubscriptionError as error:
            raise refused(error) from None
        outs = further(after) if further is not None else []
        if after != before:
            after = msgspec.structs.replace(without_expired(after, control.now_ms()), updated_ms=control.now_ms())
            outs = [written(editing, after, before), *outs]
        if not outs:
            return []
        return [*outs, control.audit(call, action, KIND, before.id, before.tenant, before, after)]

    await control.change(decide, about=about(call.params["id"]))
    return found(call)


def shown(call: Call, subscription: Subscription, status: int = 200, **more: Any) -> Reply:
    """The subscription as the table has it."""
    listing = call.get(Listing)
    headers = {"ETag": listing.etag(subscription.id)}
    if status == 201:
        headers["Location"] = f"/v1/subscriptions/{subscription.id}"
    return Reply(listing.shown(subscription) | more, status=status, headers=headers)


async def create_subscription(call: Call) -> Reply:
    """With an id and, where none is given, a secret made here."""
    if call.body.id is not msgspec.UNSET:
        raise invalid("id: it is made here; PUT /v1/subscriptions/<id> to choose one yourself", "/id")
    return await _put(call, call.get(Editing).new_id(), new=True, start=await start_asked(call))


async def put_subscription(call: Call) -> Reply:
    """All of it: fields that are not sent get their defaults."""
    return await _put(call, call.params["id"], new=False)


async def _put(call: Call, subscription_id: str, *, new: bool, start: Start | None = None) -> Reply:
    control, editing, listing = call.get(Control), call.get(Editing), call.get(Listing)
    fields = {"verification": editing.verification} | written_fields(call.body)
    asked_tenant = acts_for(call.principal, fields.pop("tenant", None))
    secret = editing.new_secret()
    created = [False, False]  # the subscription, its secret

    def decide() -> list[Out]:
        before = listing.subscriptions.get(subscription_id)
        if before is not None:
            if new:
                raise ProblemError(409, "this id was given already; send the request again")
            found(call)  # 404 for another tenant's
        if not new:
            require_absent(call, there=before is not None)
        if before is not None:
            require_match(call, listing.etag(before.id), needed=True)
        tenant = asked_tenant or (before.tenant if before is not None else DEFAULT_TENANT)
        if before is not None and tenant != before.tenant:
            raise invalid("tenant: it cannot be changed; delete the subscription and create it anew", "/tenant")
        created[:] = before is None, before is None and "secrets" not in fields
        own: dict[str, Any] = {"id": subscription_id, "tenant": tenant, "updated_ms": control.now_ms()}
        if before is None:
            own["created_ms"] = own["updated_ms"]
        if created[1]:
            own["secrets"] = [secret]
        try:
            after = made(fields, before=before, **own)
        except InvalidSubscriptionError as error:
            raise refused(error) from None
        action = "created" if before is None else "replaced"
        audit = control.audit(call, action, KIND, after.id, tenant, before, after)
        return [written(editing, after, before), audit, *(start.records(call, after) if start is not None else ())]

    await control.change(decide, about=about(subscription_id))
    subscription = listing.subscriptions.get(subscription_id)
    if subscription is None:  # somebody was very fast
        raise ProblemError(404, "it was written, and deleted by somebody else since")
    more = ({"secret": secret} if created[1] else {}) | ({"replay": start.replay_id} if start is not None else {})
    return shown(call, subscription, 201 if created[0] else 200, **more)


async def patch_subscription(call: Call) -> Reply:
    """Some of its fields."""
    patch = written_fields(call.body)
    if "verification" in patch and patch["verification"] is None:
        patch["verification"] = call.get(Editing).verification

    def change(before: Subscription) -> Subscription:
        if patch.get("tenant", before.tenant) != before.tenant:
            raise InvalidSubscriptionError("tenant: it cannot be changed; delete the subscription and create it anew")
        return patched(before, patch)

    return shown(call, await update(call, "changed", change, match=True))


async def delete_subscription(call: Call) -> Reply:
    """What is still to be delivered for it is cancelled."""
    control, editing, listing = call.get(Control), call.get(Editing), call.get(Listing)

    def decide() -> list[Out]:
        before = found(call)
        require_match(call, listing.etag(before.id), needed=False)
        outs = editing.delete(before.id, state=listing.endpoints.get(before.id) is not None)
        return [*outs, control.audit(call, "deleted", KIND, before.id, before.tenant, before, None)]

    await control.change(decide, about=about(call.params["id"]))
    return Reply(status=204)


_SHOWN = Answer(type=SubscriptionView, description="The subscription as it is now", headers=(ETAG,))
_CREATED = Answer(
    type=CreatedView,
    description="It was created; a secret that was made is shown this once",
    headers=(ETAG, Header("Location", "Where it is")),
)
ROUTES = [
    Route(
        method="POST",
        path="/v1/subscriptions",
        handler=create_subscription,
        summary="Create a subscription",
        description="With `start_at`, it gets what came since then too, by a replay: it needs `replays:write`.",
        tag=TAG,
        scope="subscriptions:write",
        body=SubscriptionCreate,
        answers={201: _CREATED},
        problems=(409,),
    ),
    Route(
        method="PUT",
        path="/v1/subscriptions/{id}",
        handler=put_subscription,
        summary="Create or replace the subscription with this id",
        description="Replacing one needs If-Match. Secrets stay as they are unless they are sent.",
        tag=TAG,
        scope="subscriptions:write",
        body=SubscriptionWrite,
        headers=(IF_MATCH, IF_NONE_MATCH),
        answers={200: _SHOWN, 201: _CREATED},
        problems=(412, 428),
    ),
    Route(
        method="PATCH",
        path="/v1/subscriptions/{id}",
        handler=patch_subscription,
        summary="Change some fields of a subscription",
        description="A merge patch (RFC 7396): null is the default. Needs If-Match.",
        tag=TAG,
        scope="subscriptions:write",
        body=SubscriptionPatch,
        media=(MERGE_PATCH, JSON),
        headers=(IF_MATCH,),
        answers={200: _SHOWN},
        problems=(412, 428),
    ),
    Route(
        method="DELETE",
        path="/v1/subscriptions/{id}",
        handler=delete_subscription,
        summary="Delete a subscription",
        tag=TAG,
        scope="subscriptions:write",
        headers=(IF_MATCH,),
        answers={204: Answer(description="It is gone")},
        problems=(400, 412),
    ),
]
