"""HTTP message signatures (RFC 9421) and the digest of a body (RFC 9530), as far as a sender of webhooks needs them.

What is covered is always the same: method, target URI, digest and type of the body, and the webhook's id, and what its
`webhook-replay` says where it has one; by keys whose `alg` and `keyid` are said, with the time of signing. This file
parses nothing and verifies nothing.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256

from schemas.credentials import SIGNATURE_HEADERS
from schemas.delivery import REPLAY_HEADER
from streams.core.signing_keys import Key

#: Before the key's id in the label of each signature: so a receiver finds the one that its key made (section 4).
LABEL = "sig-"
#: What the signature is for (section 2.3): nobody takes it for one that says something else.
TAG = "webhook"


def content_digest(body: bytes) -> str:
    """The value of Content-Digest (RFC 9530, section 2)."""
    return f"sha-256=:{b64encode(sha256(body).digest()).decode()}:"


def signature_params(names: Sequence[str], created_s: int | str, key_id: str, **said: str) -> str:
    """The inner list of covered components with its parameters (RFC 9421, section 2.3): created, keyid, and those
    that are given, whose values hold no quotation mark."""
    covered = " ".join([f'"{name}"' for name in names])
    more = "".join([f';{name}="{text}"' for name, text in said.items()])
    return f'({covered});created={created_s};keyid="{key_id}"{more}'


def signature_base(components: Sequence[tuple[str, str]], params: str) -> bytes:
    """What is signed (RFC 9421, section 2.5). Names are in lower case; values without white space around them."""
    lines = [f'"{name}": {value}\n' for name, value in components]
    return f'{"".join(lines)}"@signature-params": {params}'.encode("ascii")


def signature_headers(
    keys: Sequence[Key],
    target_uri: str,
    content_type: str,
    webhook_id: str,
    created_s: int | str,
    body: bytes,
    replay: str = "",
) -> list[tuple[str, str]]:
    """The header fields of a POST that is signed with each of the keys; `replay` is what its `webhook-replay` says."""
    digest = content_digest(body)
    components = [
        ("@method", "POST"),
        ("@target-uri", target_uri),
        ("content-digest", digest),
        ("content-type", content_type.strip()),
        ("webhook-id", webhook_id),
    ]
    if replay:
        components.append((REPLAY_HEADER, replay))
    names = [name for name, _ in components]
    inputs, signatures = [], []
    for key in keys:
        params = signature_params(names, created_s, key.key_id, alg=key.alg, tag=TAG)
        signed = b64encode(key.sign(signature_base(components, params))).decode()
        inputs.append(f"{LABEL}{key.key_id}={params}")
        signatures.append(f"{LABEL}{key.key_id}=:{signed}:")
    names_of = SIGNATURE_HEADERS["rfc9421"]
    return list(zip(names_of, (digest, ", ".join(inputs), ", ".join(signatures)), strict=True))
