"""Problem documents (RFC 9457): every answer of the API that is no success is one.

This file does not decide when something is a problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec

MEDIA_TYPE = "application/problem+json"


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request: `path` is a JSON pointer into its body, or `?name` of the query."""

    path: str
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The document. `type` stays `about:blank`: the status says what kind it is (RFC 9457, 4.2.1)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str = ""
    request_id: str = ""
    errors: tuple[Fault, ...] = ()


class ProblemError(Exception):
    """Ends a call with a problem: one sentence with the next step, which quotes no secret."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})

    def document(self, instance: str, request_id: str) -> Problem:
        """As it is sent."""
        return Problem(
            title=title(self.status),
            status=self.status,
            detail=self.detail,
            instance=instance,
            request_id=request_id,
            errors=self.errors,
        )


def title(status: int) -> str:
    """The status in words (RFC 9110, 15)."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"HTTP {status}"


def not_found(what: str) -> ProblemError:
    """There is no such thing, or it is another tenant's: both read the same."""
    return ProblemError(404, f"there is no {what}")


def invalid(detail: str, path: str = "") -> ProblemError:
    """The body's content breaks a rule."""
    return ProblemError(422, detail, errors=[Fault(path, detail)])
