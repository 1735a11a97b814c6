"""What an endpoint asks of TLS beyond the ordinary: a client certificate to show, a CA to insist on.

Values only, in clear. Their rules, and that keys are sealed in Kafka, are `schemas/credentials.py`'s; whether a
certificate can be used is `connectors/tls.py`'s.
"""

from __future__ import annotations

import msgspec


class EndpointTls(msgspec.Struct, frozen=True, kw_only=True):
    """PEM texts, each "" for none: `certificate` (a chain, the client's own first) with its `key`, and `ca`, one or
    more certificates of which one must have issued the server's, or be it.

    `owner` is the subscription's id. It belongs to the value, because connections are kept by it: one that was made for
    a subscription is never used for another one, even with the same certificate.
    """

    owner: str
    certificate: str = ""
    key: str = ""
    ca: str = ""

    def __repr__(self) -> str:
        """Without the key: a repr ends up in logs."""
        return f"EndpointTls(owner={self.owner!r})"
