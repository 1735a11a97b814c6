"""`metrics_cost`: the delivery agent with metrics, scraped every second, next to the same without."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.request
from collections.abc import Iterator

from bench import deliveries, harness
from bench.sink import sink

ROUNDS = 4
EVERY_S = 1.0


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def scraped(port: int) -> Iterator[list[int]]:
    """Ten times as often as Prometheus would; the sizes of what was read."""
    ended = threading.Event()
    sizes: list[int] = []

    def scrape() -> None:
        while not ended.wait(EVERY_S):
            with (
                contextlib.suppress(OSError),  # it has not started yet, or has ended
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response,
            ):
                sizes.append(len(response.read()))

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def main(bootstrap: str) -> None:
    """In turns, each first as often as the other; the best of each."""
    figures: dict[bool, list[float]] = {True: [], False: []}
    with sink() as endpoints:
        for number in range(2 * ROUNDS):
            shown = number % 4 in (0, 3)
            world = deliveries.fill(bootstrap, endpoints.url("/ok"))
            port = free_port()
            extra = {"metrics_port": port} if shown else {}
            with scraped(port) as sizes:
                rate = harness.run(
                    "bench.world:throughput",
                    part="delivery",
                    counter="delivered",
                    total=deliveries.DELIVERIES,
                    extra=extra,
                    **world.arguments,
                )
            assert bool(sizes) == shown, "metrics were read where they are shown, and only there"
            figures[shown].append(rate)
            harness.note(f"{'with' if shown else 'without'} metrics: {rate:.0f} deliveries/cpu_s")
    best, bare = max(figures[True]), max(figures[False])
    harness.show("deliveries_without_metrics", bare, "deliveries/cpu_s")
    harness.show("metrics_cost", best, "deliveries/cpu_s", ratio=best / bare, vs="deliveries_without_metrics")
