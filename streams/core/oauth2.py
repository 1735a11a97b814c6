"""The client credentials grant (RFC 6749, 4.4): what is asked of a token endpoint, what its answer says, and for how
long a token is used.

No sentence made here quotes an answer, which may hold a token or repeat a secret: only the error codes that the RFC
names. This file does not read a clock, and sends nothing.
"""

from __future__ import annotations

import base64
import re
from urllib.parse import quote_plus, urlencode, urlsplit

import msgspec

from schemas.credentials import OAuth2
from schemas.post import PostResult

#: What is read of an answer, and so the longest token (bytes).
ANSWER_BYTES_MAX = 32_768
#: RFC 6750, 2.1, and whatever else is visible: it becomes a header field, with others beside it.
_TOKEN = re.compile(r"[!-~]{1,8192}")
#: RFC 6749, 5.2; the last two are 4.1.2.1's, which servers use here as well.
_ERRORS = frozenset(
    {
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)
#: A token without `expires_in` (which RFC 6749, 5.1 only recommends) is used for so long, and none for longer than the
#: other, since nobody says here that it was revoked.
LIFE_S_DEFAULT, LIFE_S_MAX = 300.0, 86_400.0
#: A token is renewed when so much of its life has passed, and jitter adds up to so much more: workers that got theirs
#: together do not ask together again.
RENEW_AFTER, RENEW_JITTER = 0.75, 0.15
#: It is not used for the last part of its life, at most so many seconds: it has to reach the endpoint.
MARGIN, MARGIN_S_MAX = 0.1, 10.0
#: How long nothing is asked after so many failures in a row; the last one for all that follow.
PAUSES_S = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
#: A token endpoint may ask for more patience, but for no more than this.
PAUSE_S_MAX = 600.0


class TokenRequest(msgspec.Struct, frozen=True):
    """What is POSTed to a token endpoint."""

    headers: tuple[tuple[str, str], ...]
    body: bytes

    def __repr__(self) -> str:
        """Without the secret."""
        return "TokenRequest()"


class Granted(msgspec.Struct, frozen=True):
    """A token and its life in seconds, counted from when it was asked for."""

    token: str
    life_s: float

    def __repr__(self) -> str:
        """Without the token."""
        return f"Granted(life_s={self.life_s})"


class Refused(msgspec.Struct, frozen=True):
    """Why there is no token, in a sentence."""

    detail: str


def token_request(client: OAuth2) -> TokenRequest:
    """RFC 6749, 4.4.2, with the client's password in a header or in the body (2.3.1)."""
    fields = {"grant_type": "client_credentials"}
    if client.scope:
        fields["scope"] = client.scope
    if client.audience:
        fields["audience"] = client.audience
    headers = [("accept", "application/json"), ("content-type", "application/x-www-form-urlencoded")]
    if client.client_auth == "post":
        fields |= {"client_id": client.client_id, "client_secret": client.client_secret}
    else:
        # Encoded as a form's fields first (2.3.1, appendix B), so that the id may hold a colon.
        headers.append(("authorization", basic(quote_plus(client.client_id), quote_plus(client.client_secret))))
    return TokenRequest(tuple(headers), urlencode(fields).encode())


def basic(username: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617, in UTF-8)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def judge_answer(client: OAuth2, result: PostResult) -> Granted | Refused:
    """What became of a token request. The host of the endpoint is named, nothing else of it."""
    host = urlsplit(client.token_url).hostname or ""
    if result.cause is not None:
        # The other sentences of a sender speak of hosts and addresses; this one may quote what was read.
        malformed = result.cause == "malformed_response"
        return Refused(f"No token from {host}: {'its answer is not HTTP/1.1.' if malformed else result.detail}")
    fields = _fields(result.excerpt)
    if not 200 <= result.status <= 299:
        error = fields.get("error")
        said = f" ({error})" if isinstance(error, str) and error in _ERRORS else ""
        advice = "; check the client's id and secret" if error == "invalid_client" or result.status == 401 else ""
        return Refused(f"No token from {host}: it answered {result.status}{said}{advice}.")
    token, kind = fields.get("access_token"), fields.get("token_type")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        return Refused(f"No token from {host}: its answer is not a JSON object with an access_token.")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        return Refused(f"No token from {host}: the token's type is not Bearer, the only one that is known here.")
    life_s = _life_s(fields.get("expires_in"))
    if life_s is None:
        return Refused(f"No token from {host}: expires_in is not a number of seconds from 1 on.")
    return Granted(token, life_s)


def _fields(body: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return {}


def _life_s(expires_in: object) -> float | None:
    """Some servers write the number as a text."""
    if expires_in is None:
        return LIFE_S_DEFAULT
    if isinstance(expires_in, str) and re.fullmatch(r"[0-9]{1,12}", expires_in):
        expires_in = int(expires_in)
    if isinstance(expires_in, bool) or not isinstance(expires_in, (int, float)) or not expires_in >= 1:
        return None
    return min(float(expires_in), LIFE_S_MAX)


def renew_after_s(life_s: float, jitter: float) -> float:
    """How long after it was asked for a token is asked for again, `jitter` in [0, 1)."""
    return life_s * (RENEW_AFTER + RENEW_JITTER * jitter)


def usable_s(life_s: float) -> float:
    """How long after it was asked for a token is used at most."""
    return life_s - min(life_s * MARGIN, MARGIN_S_MAX)


def pause_s(failures: int, retry_after_ms: int | None, jitter: float) -> float:
    """How long nothing is asked after the last of so many failures in a row; jitter adds a tenth at most."""
    pause = PAUSES_S[min(failures, len(PAUSES_S)) - 1] * (1 + jitter / 10)
    return max(pause, min((retry_after_ms or 0) / 1000, PAUSE_S_MAX))
