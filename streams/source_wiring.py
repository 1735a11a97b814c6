"""What the API and the command line share to change sources: where records go, and how secrets are sealed.

Part of the composition root. What a change is stands in `connectors/source_desk.py`.
"""

from __future__ import annotations

from connectors.source_desk import Sealer, SourceTopics
from schemas.codec import wire_header
from schemas.topics import Topics
from streams.secret_keys import SecretKeys, nonce
from streams.wiring import OwnSchemas


def source_topics(topics: Topics, own: OwnSchemas) -> SourceTopics:
    """With the ids of our schemas."""
    return SourceTopics(topics.sources, wire_header(own.source), topics.audit, wire_header(own.audit_record))


def source_sealer(keys: SecretKeys) -> Sealer:
    """With the keys of now, also when their file changes."""
    return Sealer(
        open=lambda text, place: keys.keyring.open(text, place),  # noqa: PLW0108 - the keyring is replaced
        seal=lambda text, place: keys.keyring.seal(text, place, nonce()),
        primary=lambda: keys.keyring.primary,
    )
