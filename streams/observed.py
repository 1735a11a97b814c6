"""What the API, the schema registry and the history show of themselves.

A part of the composition root: it is filled in as the process starts. Workers have `streams/worker_metrics.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Literal

from aiohttp import web

from connectors.clock import SystemClock
from connectors.metrics_server import RequestMeter, Shown, metrics_served
from schemas.metrics import Sample
from streams.settings import Settings

Role = Literal["api", "registry", "history"]


class Observed:
    """Not ready until somebody says what else there may be."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.url = ""  # where it is shown
        self._meter = RequestMeter(role, SystemClock().monotonic)
        self._unready: Callable[[], list[str]] = lambda: ["it has not started yet"]
        self._more: Callable[[], Iterable[Sample]] = tuple

    def serves(
        self, app: web.Application, unready: Callable[[], list[str]], more: Callable[[], Iterable[Sample]] = tuple
    ) -> None:
        """The application is about to be served. `unready` says what keeps it from its work, `more` further numbers."""
        app.middlewares.insert(0, self._meter.middleware)
        self.works(unready, lambda: (*self._meter.samples(), *more()))

    def works(self, unready: Callable[[], list[str]], more: Callable[[], Iterable[Sample]]) -> None:
        """The same, where there are no requests."""
        self._unready, self._more = unready, more

    def samples(self) -> Iterator[Sample]:
        """All numbers of now."""
        yield from self._more()

    def unready(self) -> list[str]:
        """A sentence each."""
        return self._unready()


@asynccontextmanager
async def observed(settings: Settings, role: Role) -> AsyncIterator[Observed | None]:
    """Shown while the block lasts; None where the settings show nothing. MetricsServerError when it cannot listen."""
    if settings.metrics_port is None:
        yield None
        return
    one = Observed(role)
    shown = Shown(role=role, samples=one.samples, unready=one.unready)
    async with metrics_served(shown, settings.metrics_host, settings.metrics_port) as one.url:
        yield one
