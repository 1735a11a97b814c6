"""Portal links: short-lived, signed tokens by which a tenant's own pages use the HTTP API, without a key in a browser.

A token is `dsp_<signer>.<claims>.<signature>`: the first tells which secret signed it, the claims are JSON, the
signature is HMAC-SHA256 under a key that HKDF (RFC 5869) derives from the secret. Nothing is kept of a token: it ends
by itself, with the API key that made it, or with the secret. This file reads no clock and does not know whether that
API key is still valid.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from schemas.access import InvalidAccessError

PREFIX = "dsp_"
_TOKEN = re.compile(r"dsp_([0-9a-f]{8})\.([A-Za-z0-9_-]{1,3000})\.([A-Za-z0-9_-]{43})")
SECRET_BYTES_MIN = 32
LIFE_MS_MAX = 24 * 3600 * 1000
LIFE_MS = 3600 * 1000
#: What no link carries: with it, a page that is open for an hour could make itself a key for ever.
WITHHELD = frozenset({"keys:write"})
_INFO = b"distributary portal link v1"


class PortalLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The claims of a token. `key` is the API key that made it, `audience` the API that it is for. Times are
    milliseconds since the epoch."""

    id: str
    tenant: str
    scopes: tuple[str, ...]
    key: str
    audience: str
    issued_ms: int
    expires_ms: int


_decoder = msgspec.json.Decoder(PortalLink)


class PortalSigner:
    """Makes and reads tokens. The first secret signs; every one is taken, so that they can be replaced one by one.

    `audience` names this API: a token of another that happens to have the same secret is none here.
    """

    def __init__(self, secrets: Iterable[bytes], audience: str) -> None:
        """ValueError without a secret, or with one of less than `SECRET_BYTES_MIN` bytes."""
        self._keys: dict[str, bytes] = {}
        for secret in secrets:
            if len(secret) < SECRET_BYTES_MIN:
                raise ValueError(f"a portal secret has less than {SECRET_BYTES_MIN} bytes; take a longer one")
            derived = HKDF(algorithm=SHA256(), length=36, salt=None, info=_INFO).derive(secret)
            self._keys[derived[32:].hex()] = derived[:32]
        if not self._keys:
            raise ValueError("there is no portal secret")
        self._signer = next(iter(self._keys))
        self._audience = audience

    def issue(
        self, link_id: str, *, tenant: str, scopes: tuple[str, ...], key: str, now_ms: int, life_ms: int
    ) -> tuple[PortalLink, str]:
        """A link and its token. InvalidAccessError for a life or scopes that no link may have."""
        if not 0 < life_ms <= LIFE_MS_MAX:
            raise InvalidAccessError(f"expires_in_s: between 1 and {LIFE_MS_MAX // 1000}")
        if withheld := sorted(WITHHELD & set(scopes)):
            raise InvalidAccessError(f"scopes: a link cannot carry {', '.join(withheld)}")
        link = PortalLink(
            id=link_id,
            tenant=tenant,
            scopes=scopes,
            key=key,
            audience=self._audience,
            issued_ms=now_ms,
            expires_ms=now_ms + life_ms,
        )
        claims = _text(msgspec.json.encode(link))
        return link, f"{PREFIX}{self._signer}.{claims}.{_text(self._mac(self._signer, claims))}"

    def read(self, token: str, now_ms: int) -> PortalLink | None:
        """The claims of a token that is ours and valid now; None otherwise."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        signer, claims, signature = match.groups()
        if signer not in self._keys:
            return None
        if not hmac.compare_digest(_text(self._mac(signer, claims)), signature):
            return None
        try:
            link = _decoder.decode(base64.b64decode(claims + "=" * (-len(claims) % 4), altchars=b"-_"))
        except (binascii.Error, msgspec.MsgspecError):
            return None
        ours = link.audience == self._audience and not WITHHELD & set(link.scopes)
        return link if ours and now_ms < link.expires_ms <= link.issued_ms + LIFE_MS_MAX else None

    def _mac(self, signer: str, claims: str) -> bytes:
        return hmac.digest(self._keys[signer], f"{signer}.{claims}".encode(), hashlib.sha256)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
