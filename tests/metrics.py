"""What tests ask a process for: its metrics as Prometheus' own parser reads them, and its health."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from schemas.metrics import METRICS, PROCESS

#: (sample name, sorted labels) and value.
Scraped = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def page(url: str) -> tuple[int, str]:
    """(status, text)."""

    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(get)


async def scrape(url: str) -> Scraped:
    """All samples of `/metrics`."""
    status, text = await page(f"{url}/metrics")
    assert status == 200, text
    return parse(text)


def parse(text: str) -> Scraped:
    """All samples; AssertionError for a metric that the catalogue does not have, or has with other labels."""
    process = {metric.name for metric in PROCESS}
    found: Scraped = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            base = sample.name if sample.name in METRICS or sample.name in process else family.name
            assert base in METRICS or base in process, sample
            if base in METRICS:
                assert set(sample.labels) - {"le"} == set(METRICS[base].labels), sample
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, sample
            found[key] = sample.value
    return found


def value(scraped: Scraped, name: str, **labels: str) -> float:
    """One sample; 0 when there is none."""
    return scraped.get((name, tuple(sorted(labels.items()))), 0.0)


def named(scraped: Scraped, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """All samples of a name, by labels."""
    return {labels: number for (found, labels), number in scraped.items() if found == name}
