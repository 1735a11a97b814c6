"""The header fields that say who sent a webhook, in each form that a subscription may ask for.

- `standard`: Standard Webhooks 1.0, `webhook-signature: v1,<base64 HMAC-SHA256>` for a `whsec_` secret and
  `v1a,<base64 ed25519>` for a `whsk_` one, over `{id}.{timestamp}.{body}`; one for each secret, separated by spaces, so
  that a receiver accepts the old and the new secret during a rotation.
- `github`: `X-Hub-Signature-256: sha256=<hex>` over the body, with the newest `whsec_` secret.
- `stripe`: `Stripe-Signature: t=<timestamp>,v1=<hex>` over `{timestamp}.{body}`, one `v1` for each `whsec_` secret.
- `rfc9421`: HTTP message signatures, `message_signatures.py`.

The libraries of GitHub and Stripe take the text of the secret as the key, so for these forms it is the whole text,
`whsec_` and all. Each form is checked in the tests against an implementation that is not ours.
This file reads no clock.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Sequence

from schemas.credentials import DEFAULT_SIGNATURES, SIGNATURE_HEADERS, Signature
from schemas.errors import InvalidSubscriptionError
from streams.core.message_signatures import signature_headers
from streams.core.signing_keys import Key

(GITHUB,), (STRIPE,) = SIGNATURE_HEADERS["github"], SIGNATURE_HEADERS["stripe"]
_NEVER = 1 << 63


class Signer:
    """Signs for one version of a subscription."""

    __slots__ = (
        "_expires_ms", "_github", "_keys", "_plain", "_rfc9421", "_standard", "_stripe", "_target_uri", "header_names",
    )  # fmt: skip

    def __init__(
        self,
        secrets: Sequence[str],
        expire_ms: Sequence[int] = (),
        signatures: Sequence[Signature] = DEFAULT_SIGNATURES,
        target_uri: str = "",
    ) -> None:
        """`secrets` in clear, newest first, and when each expires (missing or 0: never); the URL as it is requested.

        InvalidSubscriptionError for a secret that is none, and for a form that none of them can make.
        """
        self._standard, self._github, self._stripe, self._rfc9421 = (form in signatures for form in SIGNATURE_HEADERS)
        by_text = self._github or self._stripe
        times = [*expire_ms, *[0] * len(secrets)]
        self._keys = [Key(secret, at_ms, by_text=by_text) for secret, at_ms in zip(secrets, times, strict=False)]
        if by_text and not any(key.text for key in self._keys):
            raise InvalidSubscriptionError("signatures: github and stripe need a whsec_ secret")
        self._expires_ms = min([key.expire_ms for key in self._keys if key.expire_ms], default=_NEVER)
        self._plain = self._keys[0].hmac if len(self._keys) == 1 and tuple(signatures) == DEFAULT_SIGNATURES else None
        self._target_uri = target_uri
        #: In lower case: what `headers` may write.
        self.header_names = frozenset(name for form in signatures for name in SIGNATURE_HEADERS[form])

    def headers(
        self, webhook_id: str, content_type: str, body: bytes, now_ms: int, replay: str = ""
    ) -> list[tuple[str, str]]:
        """The type of the body and everything that identifies and signs the webhook, at this time (ms since the epoch).

        The id must hold no dot. `replay` is what the header `webhook-replay` will say, for the form that covers it.
        What has expired is not signed with; if all has, what is newest still is: no webhook goes out unsigned.
        """
        timestamp = str(now_ms // 1000)
        headers = [("content-type", content_type), ("webhook-id", webhook_id), ("webhook-timestamp", timestamp)]
        if self._plain is not None:  # nearly every subscription: on the way of every delivery
            inner, outer = self._plain.inner.copy(), self._plain.outer.copy()
            inner.update(f"{webhook_id}.{timestamp}.".encode() + body)
            outer.update(inner.digest())
            headers.append(("webhook-signature", "v1," + b2a_base64(outer.digest(), newline=False).decode()))
            return headers
        keys = self._keys
        if now_ms >= self._expires_ms:
            keys = _valid(keys, now_ms) or keys[:1]
        if self._standard:
            content = f"{webhook_id}.{timestamp}.".encode() + body
            parts = [key.version + b2a_base64(key.sign(content), newline=False).decode() for key in keys]
            headers.append(("webhook-signature", " ".join(parts)))
        if self._github or self._stripe:
            headers += self._by_text(timestamp, body, now_ms)
        if self._rfc9421:
            headers += signature_headers(keys, self._target_uri, content_type, webhook_id, timestamp, body, replay)
        return headers

    def _by_text(self, timestamp: str, body: bytes, now_ms: int) -> list[tuple[str, str]]:
        symmetric = [key for key in self._keys if key.text]
        texts = [key.text for key in _valid(symmetric, now_ms) or symmetric[:1] if key.text]
        headers = []
        if self._github:
            headers.append((GITHUB, f"sha256={texts[0].sign(body).hex()}"))
        if self._stripe:
            content = f"{timestamp}.".encode() + body
            signed = "".join([f",v1={text.sign(content).hex()}" for text in texts])
            headers.append((STRIPE, f"t={timestamp}{signed}"))
        return headers


def _valid(keys: Sequence[Key], now_ms: int) -> list[Key]:
    return [key for key in keys if not key.expire_ms or now_ms < key.expire_ms]
