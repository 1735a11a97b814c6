"""`/metrics`, `/livez` and `/readyz`: what a process shows of itself to Prometheus and to what runs it.

Values are read when somebody asks, and nothing is asked of Kafka then. It listens on this machine alone unless told
otherwise, and asks nobody who they are: what it shows holds no payloads, but names of subscriptions. This file decides
neither what is counted nor what healthy means.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from schemas.metrics import METRICS, REQUEST_US, Histogram, Metric, Sample

logger = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SHUTDOWN_SECONDS = 1.0

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class MetricsServerError(Exception):
    """It cannot listen: one sentence with the next step."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a process says of itself: its numbers, and a sentence for each reason why it is not ready, or not alive.

    All are called on the event loop, once a request, and must not wait.
    """

    role: str
    samples: Callable[[], Iterable[Sample]]
    unready: Callable[[], list[str]]
    dead: Callable[[], list[str]] = list


class RequestMeter:
    """Counts an application's requests, as a middleware of it. `monotonic` are seconds that never go back."""

    def __init__(self, role: str, monotonic: Callable[[], float]) -> None:
        self._role = role
        self._monotonic = monotonic
        self._statuses = [0] * 10
        self._seconds = Histogram(REQUEST_US, 1_000_000)

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Before all others: it sees what they answer."""
        start = self._monotonic()
        status = 500  # what aiohttp makes of what is raised
        try:
            response = await handler(request)
            status = response.status
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            self._statuses[status // 100] += 1
            self._seconds.observe(round((self._monotonic() - start) * 1_000_000))
        return response

    def samples(self) -> Iterator[Sample]:
        """What was counted."""
        yield from statuses("distributary_http_requests_total", self._statuses, self._role)
        yield "distributary_http_request_seconds", (self._role,), self._seconds


def statuses(name: str, counts: list[int], *labels: str) -> Iterator[Sample]:
    """Samples of counts by the first digit of a status; the one at 0 is of answers that never came."""
    for digit, count in enumerate(counts):
        if count:
            yield name, (*labels, f"{digit}xx" if digit else "none"), float(count)


class _Collector(Collector):
    def __init__(self, shown: Shown) -> None:
        self._shown = shown

    def collect(self) -> Iterator[Family]:
        yield from families(
            [("distributary_ready", (self._shown.role,), float(not problems_of(self._shown))), *self._shown.samples()]
        )


def problems_of(shown: Shown) -> list[str]:
    """Why it is not ready: who is dead is not."""
    return [*shown.dead(), *shown.unready()]


def families(samples: Iterable[Sample]) -> Iterator[Family]:
    """Samples as the library wants them, by metric. KeyError for a metric that is not in the catalogue."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample[0], []).append(sample)
    for name, found in by_name.items():
        yield _family(METRICS[name], found)


def _family(metric: Metric, samples: list[Sample]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for _, labels, value in samples:
            assert isinstance(value, Histogram)
            histogram.add_metric(labels, list(_buckets(value)), value.sum / value.scale)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for _, labels, value in samples:
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)
    return family


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        total += count
        yield f"{bound / histogram.scale:g}", total
    yield "+Inf", total + histogram.counts[-1]


def metrics_app(shown: Shown) -> web.Application:
    """The three pages."""
    registry = CollectorRegistry()
    registry.register(_Collector(shown))
    ProcessCollector(registry=registry)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE})

    def health(problems: list[str]) -> web.Response:
        return web.Response(text="\n".join(problems or ["ok"]) + "\n", status=503 if problems else 200)

    async def live(_: web.Request) -> web.Response:
        return health(shown.dead())

    async def ready(_: web.Request) -> web.Response:
        return health(problems_of(shown))

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/livez", live)
    app.router.add_get("/readyz", ready)
    return app


@asynccontextmanager
async def metrics_served(shown: Shown, host: str, port: int) -> AsyncIterator[str]:
    """The URL while it is served; port 0 takes a free one. MetricsServerError when the address is taken."""
    runner = web.AppRunner(metrics_app(shown), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise MetricsServerError(
                f"metrics cannot be shown on port {port} of {host}: {error.strerror};"
                " choose another DISTRIBUTARY_METRICS_PORT or DISTRIBUTARY_METRICS_HOST"
            ) from None
        address = runner.addresses[0]
        named = f"[{address[0]}]" if ":" in address[0] else address[0]
        url = f"http://{named}:{address[1]}"
        logger.info("metrics: %s/metrics", url)
        yield url
    finally:
        await runner.cleanup()
