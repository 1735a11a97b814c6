"""Subscriptions as the API shows and takes them: without secrets, with the health of their endpoint.

The types are made from `schemas.subscription.Subscription`, so that a field that is added there is here as well. This
file does not validate rules of fields (`schemas/subscription.py`). Pure.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from schemas.credentials import AUTH_SECRETS, parse_auth, parse_tls
from schemas.endpoint import EndpointState, url_hash
from schemas.redaction import redacted
from schemas.replay import PLACES_MAX
from schemas.subscription import Subscription, json_form, subscription_from_json, subscription_to_json

#: Never shown but by reveal, and the one time when they are made.
SECRET_FIELDS = frozenset({"secrets", "secrets_expire_ms"})
#: Stands for what is secret; sent back, it means "as it is".
HIDDEN = "***"
#: Fields that are the server's.
OWN_FIELDS = frozenset({"id", "created_ms", "updated_ms", "verified_url", "secrets_expire_ms"})

Status = Literal["healthy", "failing", "circuit_open", "disabled"]


class EndpointView(msgspec.Struct, kw_only=True):
    """The health of a subscription's endpoint. Times are milliseconds since the epoch, 0 for none."""

    status: Status = "healthy"
    failing_since_ms: int = 0
    circuit_open_until_ms: int = 0
    disabled_ms: int = 0
    disabled_reason: str = ""


_State = Literal["active", "paused", "disabled", "pending"]
#: Fields whose JSON is not that of their Avro, or that show more than what is stored.
_SHOWN: dict[str, Any] = {
    "state": Annotated[_State, Meta(description="pending: active, and its URL is not verified; nothing is sent")],
    "filter": Annotated[
        dict[str, Any] | Literal[""], Meta(description="A pattern; see the reference of filters. Empty for none.")
    ],
    "schema_version": Annotated[
        int | Literal["latest"], Meta(description="0: as written; a number, or latest: the data in that version")
    ],
    "auth": Annotated[
        dict[str, Any] | Literal[""], Meta(description="How the endpoint authenticates us. Empty for none.")
    ],
    "tls": Annotated[
        dict[str, Any] | Literal[""], Meta(description="A client certificate, and a CA of its own. Empty for none.")
    ],
}
_ETAG = Annotated[str, Meta(description="Its version, for If-Match")]
_FIELDS = msgspec.structs.fields(Subscription)


def _view(name: str, *more: Any) -> type[msgspec.Struct]:
    fields: list[Any] = [
        (field.name, _SHOWN.get(field.name, field.type)) for field in _FIELDS if field.name not in SECRET_FIELDS
    ]
    return msgspec.defstruct(name, [*fields, ("endpoint", EndpointView), ("etag", _ETAG), *more], kw_only=True)


def _write(name: str, *more: Any, partial: bool) -> type[msgspec.Struct]:
    """What may be sent. What only the server says may be sent back, and is not looked at."""
    fields: list[Any] = []
    for field in _FIELDS:
        if field.name in OWN_FIELDS:
            continue
        kind: Any = _SHOWN.get(field.name, field.type)
        if partial:
            fields.append((field.name, kind | None | UnsetType, UNSET))
        elif field.required:
            fields.append((field.name, kind))
        else:
            fields.append((field.name, kind | UnsetType, UNSET))
    ignored: Any = Annotated[Any, Meta(description="Not looked at: the server's")]
    fields += [(name, ignored, UNSET) for name in ("id", "created_ms", "updated_ms", "verified_url")]
    fields += [(name, ignored, UNSET) for name in ("endpoint", "etag")]
    return msgspec.defstruct(name, [*fields, *more], kw_only=True, forbid_unknown_fields=True)


SubscriptionView = _view("Subscription")
CreatedView = _view(
    "CreatedSubscription",
    ("secret", Annotated[str | UnsetType, Meta(description="The one that was made, shown once")], UNSET),
    ("replay", Annotated[str | UnsetType, Meta(description="The id of the replay of what came before it")], UNSET),
)


class StartOffsets(msgspec.Struct, forbid_unknown_fields=True):
    """From these offsets of the topic `events` on, by partition; of other partitions from now on."""

    offsets: Annotated[
        dict[Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,8})$")], Annotated[int, Meta(ge=0)]],
        Meta(min_length=1, max_length=PLACES_MAX),
    ]


_START = Annotated[
    Annotated[str, Meta(max_length=64)] | StartOffsets | UnsetType,
    Meta(description="earliest, an RFC 3339 time, or offsets: it gets the events that came since then, too"),
]
SubscriptionWrite = _write("SubscriptionWrite", partial=False)
SubscriptionCreate = _write("SubscriptionCreate", ("start_at", _START, UNSET), partial=False)
SubscriptionPatch = _write("SubscriptionPatch", partial=True)
_WRITTEN = tuple(field.name for field in _FIELDS if field.name not in OWN_FIELDS)


def endpoint_view(subscription: Subscription, state: EndpointState | None) -> EndpointView:
    """What is known of it; the state of another URL does not count."""
    if state is None or state.url_hash != url_hash(subscription.url):
        return EndpointView()
    status: Status = "healthy"
    if state.disabled_ms:
        status = "disabled"
    elif state.circuit == "open":
        status = "circuit_open"
    elif state.failing_since_ms:
        status = "failing"
    return EndpointView(
        status=status,
        failing_since_ms=state.failing_since_ms,
        circuit_open_until_ms=state.until_ms if state.circuit == "open" else 0,
        disabled_ms=state.disabled_ms,
        disabled_reason=state.disabled_reason,
    )


def state_of(subscription: Subscription) -> str:
    """The state, in which it is told that nothing is sent because the URL is not verified."""
    return "pending" if subscription.unverified and subscription.state == "active" else subscription.state


def subscription_view(subscription: Subscription, state: EndpointState | None, etag: str) -> dict[str, Any]:
    """The document of `SubscriptionView`, for msgspec to write."""
    fields = {name: value for name, value in redacted(subscription, HIDDEN).items() if name not in SECRET_FIELDS}
    fields["state"] = state_of(subscription)
    shown = json_form(fields)
    if subscription.filter:
        shown["filter"] = msgspec.Raw(subscription.filter.encode())
    return shown | {"endpoint": endpoint_view(subscription, state), "etag": etag}


def written_fields(body: msgspec.Struct) -> dict[str, Any]:
    """What a body says, by field; what it does not say is not there."""
    found = {name: value for name in _WRITTEN if (value := getattr(body, name)) is not UNSET}
    if found.get("state") == "pending":  # as it was shown: it is active
        found["state"] = "active"
    return found


def made(fields: dict[str, Any], *, before: Subscription | None, **own: Any) -> Subscription:
    """The subscription of a whole body; secrets stay where none are given, and so does what is sent back hidden.
    InvalidSubscriptionError."""
    if before is not None:
        own |= {"created_ms": before.created_ms, "verified_url": before.verified_url}
        if "secrets" not in fields:
            own |= {"secrets": before.secrets, "secrets_expire_ms": before.secrets_expire_ms}
        fields = restored(fields, before)
    return subscription_from_json(msgspec.json.encode(fields | own))


def patched(before: Subscription, patch: dict[str, Any]) -> Subscription:
    """The subscription after a merge patch (RFC 7396): null is the default, objects are merged. Fields that are not
    named stay as they are to the last digit. InvalidSubscriptionError."""
    fields: dict[str, Any] = msgspec.json.decode(subscription_to_json(before), type=dict[str, msgspec.Raw])
    for name, value in restored(patch, before).items():
        if value is None:
            fields.pop(name, None)
        elif isinstance(value, dict):
            fields[name] = _merged(msgspec.json.decode(fields.get(name, b"null")), value)
        else:
            fields[name] = value
    if "secrets" in patch:
        fields.pop("secrets_expire_ms", None)
    return subscription_from_json(msgspec.json.encode(fields))


def restored(fields: dict[str, Any], before: Subscription) -> dict[str, Any]:
    """With what was sent back as it was shown, hidden, as it is: values of headers, and the secrets of auth and tls."""
    found = dict(fields)
    if isinstance(headers := found.get("headers"), dict):
        found["headers"] = {
            name: before.headers.get(name, value) if value == HIDDEN else value for name, value in headers.items()
        }
    if isinstance(auth := found.get("auth"), dict) and before.auth:
        present = parse_auth(before.auth)
        name = AUTH_SECRETS[type(present)]
        if str(auth.get(name, "")).endswith(HIDDEN):
            found["auth"] = auth | {name: getattr(present, name)}
    if isinstance(tls := found.get("tls"), dict) and before.tls and str(tls.get("key", "")).endswith(HIDDEN):
        found["tls"] = tls | {"key": parse_tls(before.tls).key}
    return found


def _merged(target: Any, patch: dict[str, Any]) -> dict[str, Any]:
    """RFC 7396, 2."""
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = _merged(found.get(name), value) if isinstance(value, dict) else value
    return found
