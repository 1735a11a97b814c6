"""Health: whether the process lives, and whether it can do its work.

Nothing here asks Kafka anything: what is reported is known already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from connectors.api.problems import ProblemError
from connectors.api.routes import Answer, Call, Reply, Route


class Readiness:
    """A service: what is not ready, a sentence each."""

    def __init__(self, problems: Callable[[], list[str]]) -> None:
        self.problems = problems


class HealthView(msgspec.Struct):
    """The answer."""

    status: Literal["ok"] = "ok"


async def live(_: Call) -> Reply:
    """It answers, so it lives."""
    return Reply(HealthView())


async def ready(call: Call) -> Reply:
    """It can answer questions."""
    if problems := call.get(Readiness).problems():
        raise ProblemError(503, "; ".join(problems))
    return Reply(HealthView())


ROUTES = [
    Route(
        method="GET",
        path="/v1/health/live",
        handler=live,
        summary="Whether the process lives",
        tag="health",
        scope=None,
        answers={200: Answer(type=HealthView, description="It lives")},
        limited=False,
    ),
    Route(
        method="GET",
        path="/v1/health/ready",
        handler=ready,
        summary="Whether it can do its work",
        tag="health",
        scope=None,
        answers={200: Answer(type=HealthView, description="It is ready; 503 says what is not")},
        limited=False,
    ),
]
