"""What may be sent where: the syntax of an endpoint's URL and of request header fields, shared by both
senders.

Everything here is checked before a byte is written, so that neither a URL nor a header value can add a
header, a second request or a credential of its own (RFC 9110 section 5.5, RFC 9112 section 11). This module
does NOT resolve names, does NOT judge addresses (`address_guard`) and does no I/O.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

URL_CHARS_MAX = 8_192
HEADERS_MAX = 64
HEADER_BYTES_MAX = 16_384
USER_AGENT = "Distributary"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")  # RFC 9110 section 5.6.2
_REFUSED_IN_URL = re.compile(r"[\x00-\x20\x7f-\xa0\\]")
_UNSENDABLE = re.compile(r"[^\t\x20-\x7e\xa1-\xff]")
#: Every byte a field line may hold. Deleting them from rendered fields must leave one CR LF for each field.
_FIELD_BYTES = bytes([0x09, *range(0x20, 0x7F), *range(0xA1, 0x100)])

#: Fields that frame the message or belong to the connection. The sender writes them, nobody else.
FRAMING_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class AnyRoute(Protocol):
    """What callers see of a route: an opaque value with its origin. Both senders' routes have this shape."""

    @property
    def origin(self) -> str:
        """As in `Target.origin`."""

    @property
    def uri(self) -> str:
        """As in `Target.uri`."""


class Target(msgspec.Struct, frozen=True):
    """A parsed endpoint URL.

    `origin` is always "scheme://host:port"; `authority` is the Host field (the default port left out);
    `path` is the request target in origin form; `host` has no brackets and `is_address` says it is an IP
    literal.
    """

    tls: bool
    host: str
    port: int
    path: str
    origin: str
    authority: str
    is_address: bool

    @property
    def uri(self) -> str:
        """The target URI as a receiver reconstructs it (RFC 9110, section 7.1): without the default port."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"


def parse_target(url: str) -> Target:
    """Parse an endpoint URL; ValueError with one sentence for people when it must not be used."""
    if len(url) > URL_CHARS_MAX:
        raise ValueError(f"The URL has {len(url)} characters; shorten it to at most {URL_CHARS_MAX}.")
    # Before urlsplit, which silently drops tabs and line ends; a backslash is a slash to some parsers only.
    if _REFUSED_IN_URL.search(url):
        raise ValueError("The URL holds a space, a control character or a backslash; percent-encode it.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"The URL cannot be parsed ({error}); write it as https://host/path.") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("The URL must begin with https:// or http://.")
    if "@" in parts.netloc:
        raise ValueError("The URL holds a user name or password; put credentials into a header instead.")
    if "#" in url:
        raise ValueError("The URL has a fragment (#...), which is never sent; remove it.")
    if port == 0:
        raise ValueError("The port of the URL must be between 1 and 65535.")
    host = parts.hostname or ""
    is_address = _check_host(host, bracketed="[" in parts.netloc)
    default_port = _DEFAULT_PORTS[parts.scheme]
    port = port or default_port
    shown = f"[{host}]" if ":" in host else host
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=-._~")
    if "?" in url:
        path += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=-._~")
    return Target(
        tls=parts.scheme == "https",
        host=host,
        port=port,
        path=path,
        origin=f"{parts.scheme}://{shown}:{port}",
        authority=shown if port == default_port else f"{shown}:{port}",
        is_address=is_address,
    )


def _check_host(host: str, bracketed: bool) -> bool:
    """True for an IP literal, False for a name; ValueError for what is neither."""
    if not host:
        raise ValueError("The URL has no host; write it as https://host/path.")
    if "%" in host:
        raise ValueError("The host of the URL holds a '%'; neither encoded names nor scoped addresses are allowed.")
    if not host.isascii():
        raise ValueError("The host of the URL is not ASCII; write the name in its xn-- form.")
    try:
        version: int = ipaddress.ip_address(host).version
    except ValueError:
        version = 0
    if version == 6 or bracketed:
        if version != 6 or not bracketed:
            raise ValueError("Square brackets in the URL must hold an IPv6 address, and an IPv6 address needs them.")
        return True
    if version == 4:
        return True
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("The host of the URL is not a valid name; use letters, digits, hyphens and dots.")
    # 127.1, 0x7f.1 and 2130706433 are addresses to some resolvers and names to others (WHATWG URL, section
    # 3.5).
    if labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        raise ValueError("The host of the URL looks like a number; write an IPv4 address as four decimal numbers.")
    return False


class FieldNames(dict[str, str]):
    """Field names already checked, each with the text that precedes its value ("name: ").

    A lookup of an unknown name checks it (ValueError) and remembers it. Bounded: callers use a handful of
    names, so on overflow everything is forgotten rather than tracked.
    """

    NAMES_MAX = 1_024

    def __missing__(self, name: str) -> str:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"The header name {name[:64]!r} holds characters that are not allowed in one.")
        if name.lower() in FRAMING_HEADERS:
            raise ValueError(f"The header {name!r} belongs to the connection and cannot be set; remove it.")
        if len(self) >= self.NAMES_MAX:
            self.clear()
        self[name] = before = f"{name}: "
        return before


def render_fields(headers: Sequence[tuple[str, str]], names: FieldNames) -> bytes:
    """The field lines of `headers`, each ended by CR LF; ValueError when one could inject or is not Latin-1.

    One pass over all bytes instead of one check per value: whatever a value holds, it can only add to what is
    left when the allowed bytes are deleted, so exactly two bytes per field means that no value holds a
    control character.
    """
    fields = "".join([f"{names[name]}{value}\r\n" for name, value in headers])
    try:
        encoded = fields.encode("latin-1")
    except UnicodeEncodeError:
        encoded = b""
    if len(encoded.translate(None, _FIELD_BYTES)) != 2 * len(headers):
        raise ValueError(_complaint(headers))
    return encoded


def _complaint(headers: Sequence[tuple[str, str]]) -> str:
    name = next((name for name, value in headers if _UNSENDABLE.search(value)), "?")
    return f"The value of the header {name!r} holds a control or non-Latin-1 character; remove or encode it."


def static_headers(headers: Mapping[str, str], names: FieldNames) -> list[tuple[str, str]]:
    """The headers of a subscription, with the sender's own defaults added; ValueError when one must not be
    sent.

    `webhook-*` names are refused because the engine signs them (Standard Webhooks 1.0).
    """
    fields = list(headers.items())
    if len(fields) > HEADERS_MAX:
        raise ValueError(f"There are {len(fields)} headers; at most {HEADERS_MAX} are allowed.")
    seen: set[str] = set()
    for name, _ in fields:
        lower = name.lower()
        if lower.startswith("webhook-"):
            raise ValueError(f"The header {name!r} is written by the engine and cannot be set; remove it.")
        if lower in seen:
            raise ValueError(f"The header {name!r} is given twice; keep one of them.")
        seen.add(lower)
    if len(render_fields(fields, names)) > HEADER_BYTES_MAX:
        raise ValueError(f"The headers are larger than {HEADER_BYTES_MAX} bytes together; shorten them.")
    # An excerpt of the answer is kept for people to read, so ask for it uncompressed.
    for name, value in (("user-agent", USER_AGENT), ("accept-encoding", "identity")):
        if name not in seen:
            fields.append((name, value))
    return fields
