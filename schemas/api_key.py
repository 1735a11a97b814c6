"""API keys: the record on `api.keys`, the text that its owner is shown once, and how one is checked against the other.

The text is `dsk_<id>_<secret>`: the id finds the record, the secret is 256 random bits. Kept is scrypt of the secret
(RFC 7914), a function that costs memory, with its salt and parameters. This file draws no randomness and reads no
clock: both are arguments. It does not bound how many hashes are computed at once (`connectors/api/key_check.py`), nor
say what a scope is (`schemas/access.py`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Literal

import msgspec

from schemas import codec
from schemas.access import NAME_LENGTH_MAX, InvalidAccessError
from schemas.errors import UndecodableError
from schemas.subscription import TENANT_PATTERN

PREFIX = "dsk_"  # of the text: secret scanners find what has leaked by such
_TEXT = re.compile(r"dsk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
ID_PATTERN = re.compile(r"[0-9a-f]{16}")
ID_BYTES, SECRET_BYTES, SALT_BYTES, HASH_BYTES = 8, 32, 16, 32
#: RFC 7914's example for interactive use: 16 MiB and about 50 ms. More would protect nothing: nobody guesses 256 bits,
#: and what a check costs is also what a guess costs us.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 14, 8, 1
#: What parameters of a record may ask for: 128 n r bytes, and n r p blocks of work.
SCRYPT_BYTES_MAX = 64 << 20
SCRYPT_WORK_MAX = 1 << 21
#: A revoked or expired key is listed for so long, and removed with the next change of keys.
KEPT_MS = 30 * 24 * 3600 * 1000
EXPIRES_MS_MAX = 5 * 366 * 24 * 3600 * 1000
RATE_MIN, RATE_MAX = 0.01, 100_000.0
OVERLAP_MS_MAX = 7 * 24 * 3600 * 1000

State = Literal["active", "expired", "revoked"]
#: So many random bytes, as `secrets.token_bytes`.
Draw = Callable[[int], bytes]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key; field for field `schemas/avro/api_key.v1.avsc`. Times are milliseconds since the epoch, 0 for none.

    `tenant` is None for an operator's key. Both hashes have the same salt and parameters, so that checking a secret is
    one computation, also during a rotation. `rate` is calls a second, 0 for the default.
    """

    id: str
    tenant: str | None = None
    scopes: tuple[str, ...]
    name: str = ""
    hash: bytes
    previous_hash: bytes
    previous_until_ms: int = 0
    salt: bytes
    scrypt_n: int
    scrypt_r: int
    scrypt_p: int
    created_ms: int = 0
    created_by: str = ""
    rotated_ms: int = 0
    expires_ms: int = 0
    revoked_ms: int = 0
    rate: float = 0.0

    def __repr__(self) -> str:
        """Without the hashes: a repr ends up in logs."""
        return f"ApiKey({self.id!r}, tenant={self.tenant!r}, name={self.name!r}, scopes={self.scopes!r})"

    def state(self, now_ms: int) -> State:
        """Whether it is valid, and if not, why."""
        if self.revoked_ms:
            return "revoked"
        return "expired" if self.expires_ms and now_ms >= self.expires_ms else "active"

    def removable(self, now_ms: int) -> bool:
        """Whether it ended so long ago that its record may go."""
        ended = self.revoked_ms or self.expires_ms
        return bool(ended) and now_ms >= ended + KEPT_MS

    def hashed(self, secret: str) -> bytes:
        """scrypt of a secret with this key's salt and parameters: some 50 ms, without the interpreter's lock."""
        n, r, p = self.scrypt_n, self.scrypt_r, self.scrypt_p
        maxmem = 2 * SCRYPT_BYTES_MAX
        return hashlib.scrypt(secret.encode(), salt=self.salt, n=n, r=r, p=p, maxmem=maxmem, dklen=HASH_BYTES)

    def valid_until_ms(self, hashed: bytes, now_ms: int) -> int | None:
        """Until when (0: for ever) the secret with this hash is valid, if nothing changes; None when it is not now."""
        now = hmac.compare_digest(hashed, self.hash)
        # Both are compared whatever the first says.
        before = hmac.compare_digest(hashed, self.previous_hash) and now_ms < self.previous_until_ms
        if self.state(now_ms) != "active" or not (now or before):
            return None
        if now:
            return self.expires_ms
        return min(self.previous_until_ms, self.expires_ms or self.previous_until_ms)


#: In place of a key that is not there: refusing it takes the same work.
NOBODY = ApiKey(
    id="",
    scopes=(),
    hash=bytes(HASH_BYTES),
    previous_hash=b"",
    salt=bytes(SALT_BYTES),
    scrypt_n=SCRYPT_N,
    scrypt_r=SCRYPT_R,
    scrypt_p=SCRYPT_P,
    revoked_ms=1,
)


def parse_key(text: str) -> tuple[str, str] | None:
    """(id, secret) of a key's text; None when it does not have the form of one."""
    match = _TEXT.fullmatch(text)
    return (match[1], match[2]) if match else None


def new_key(
    draw: Draw,
    *,
    tenant: str | None,
    scopes: tuple[str, ...],
    name: str,
    created_ms: int,
    created_by: str,
    expires_ms: int = 0,
    rate: float = 0.0,
) -> tuple[ApiKey, str]:
    """A key, and the text to be shown to its owner, once. InvalidAccessError for a name, expiry or rate that cannot be.

    It does not ask whether whoever makes the key may give these rights: `schemas.access.check_given` does.
    """
    if len(name) > NAME_LENGTH_MAX or not name.isprintable():
        raise InvalidAccessError(f"name: at most {NAME_LENGTH_MAX} printable characters")
    if expires_ms and not created_ms < expires_ms <= created_ms + EXPIRES_MS_MAX:
        raise InvalidAccessError("expires_ms: in the future, and within five years; 0 is never")
    if not (rate == 0 or RATE_MIN <= rate <= RATE_MAX):
        raise InvalidAccessError(f"rate: between {RATE_MIN:g} and {RATE_MAX:g} calls a second; 0 is the default")
    drawn = ApiKey(
        id=draw(ID_BYTES).hex(),
        tenant=tenant,
        scopes=scopes,
        name=name,
        hash=b"",
        previous_hash=b"",
        salt=draw(SALT_BYTES),
        scrypt_n=SCRYPT_N,
        scrypt_r=SCRYPT_R,
        scrypt_p=SCRYPT_P,
        created_ms=created_ms,
        created_by=created_by,
        expires_ms=expires_ms,
        rate=rate,
    )
    return _with_secret(drawn, draw)


def rotated(key: ApiKey, draw: Draw, now_ms: int, overlap_ms: int) -> tuple[ApiKey, str]:
    """The key with a new secret, and its text. The old secret stays valid for `overlap_ms`; one before that ends now.

    InvalidAccessError when the key is not valid any more.
    """
    if (state := key.state(now_ms)) != "active":
        raise InvalidAccessError(f"the key {key.id} is {state}; make a new one")
    if not 0 <= overlap_ms <= OVERLAP_MS_MAX:
        raise InvalidAccessError(f"overlap_ms: between 0 and {OVERLAP_MS_MAX}")
    replace = msgspec.structs.replace
    kept = replace(
        key,
        previous_hash=key.hash if overlap_ms else b"",
        previous_until_ms=now_ms + overlap_ms if overlap_ms else 0,
        rotated_ms=now_ms,
    )
    return _with_secret(kept, draw)


def revoked(key: ApiKey, now_ms: int) -> ApiKey:
    """The key, not valid any more; as it is when it was revoked before."""
    return key if key.revoked_ms else msgspec.structs.replace(key, revoked_ms=now_ms)


def _with_secret(key: ApiKey, draw: Draw) -> tuple[ApiKey, str]:
    secret = base64.urlsafe_b64encode(draw(SECRET_BYTES)).rstrip(b"=").decode()
    return msgspec.structs.replace(key, hash=key.hashed(secret)), f"{PREFIX}{key.id}_{secret}"


# --- on the topic -----------------------------------------------------------------------------------------------------

_SCHEMA = codec.parse_schema(codec.own_schema("api_key.v1"))


def encode_key(header: bytes, key: ApiKey) -> bytes:
    """The framed value of api_key.v1; `header` is that of `codec.wire_header`."""
    return codec.encode_struct(header, _SCHEMA, key)


def decode_key(value: bytes | None) -> ApiKey:
    """The key in a framed value that was written with api_key.v1; UndecodableError when it is none that may be used."""
    key = codec.decode_struct(value, _SCHEMA, ApiKey)
    if fault := _fault(key):
        raise UndecodableError("avro", fault)
    return key


def _fault(key: ApiKey) -> str:
    """What makes a record no key: whoever can write the topic must not get the API to compute without a bound."""
    n, r, p = key.scrypt_n, key.scrypt_r, key.scrypt_p
    if not ID_PATTERN.fullmatch(key.id):
        return "the id is not 16 hexadecimal digits"
    if key.tenant is not None and not TENANT_PATTERN.fullmatch(key.tenant):
        return "the tenant has characters that none may have"
    if n < 2 or n & (n - 1) or r < 1 or p < 1 or 128 * n * r > SCRYPT_BYTES_MAX or n * r * p > SCRYPT_WORK_MAX:
        return "the parameters of scrypt are not such as may be used"
    if len(key.salt) < SALT_BYTES or len(key.hash) != HASH_BYTES or len(key.previous_hash) not in (0, HASH_BYTES):
        return "a hash or the salt has a wrong length"
    return ""
