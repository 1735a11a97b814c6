"""`filter_cost_10k`: what an event costs when each of 10,000 subscriptions to its type has a filter of its own.

Reference: the same with ten. Each filter names a customer and a region that all share; one of them matches each event.
From the event's JSON to the positions of the filters that match, on one core and without Kafka. `filter_change_10k` is
what the next event costs more when one of the 10,000 subscriptions has changed.
"""

from __future__ import annotations

import orjson

from bench import harness
from bench.harness import cpu_s, report
from streams.core.filter_index import FilterIndex
from streams.core.filter_values import load_json
from streams.core.filters import parse_filter

FEW = 10
MANY = 10_000
EVENTS = 20_000
CHANGES = 50
TURNS = 3


def text(number: int) -> str:
    """The filter of a subscription."""
    return orjson.dumps({"data": {"customer": [f"c-{number:06d}"], "region": ["eu", "us"]}}).decode()


def event(number: int) -> bytes:
    """An event's data, of a few hundred bytes."""
    data = {"customer": f"c-{number % FEW:06d}", "region": "eu", "total": 12.5, "lines": [1, 2], "note": "x" * 200}
    return orjson.dumps(data)


def select() -> None:
    """A role: reports µs an event with few and with many filters, and ms of a change among the many. In turns: another
    process on the machine disturbs all of them alike; the best of each counts."""
    sizes = (FEW, MANY)
    filters = {size: [parse_filter(text(number)) for number in range(size)] for size in sizes}
    indexes = {size: FilterIndex(filters[size]) for size in sizes}
    events = [event(number) for number in range(EVENTS)]
    costs: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(TURNS):
        for size, index in indexes.items():
            started, matched = cpu_s(), 0
            for data in events:
                document = {"id": "evt_1", "type": "order.created", "tenant": "default", "data": load_json(data)}
                matched += len(index.select(document))
            costs[size].append((cpu_s() - started) / EVENTS * 1e6)
            if matched != EVENTS:
                raise RuntimeError(f"{matched} matches of {EVENTS}")
    changed = filters[MANY]
    fresh = [parse_filter(text(MANY + number)) for number in range(CHANGES)]
    started = cpu_s()
    for number in range(CHANGES):
        changed[number * 7] = fresh[number]
        indexes[MANY].replace(changed)
    change_ms = (cpu_s() - started) / CHANGES * 1e3
    report({"few_us": min(costs[FEW]), "many_us": min(costs[MANY]), "change_ms": change_ms})


def main(bootstrap: str) -> None:
    """Ten and ten thousand; Kafka is not needed for it."""
    found = harness.run("bench.filters:select")
    ratio = found["many_us"] / found["few_us"]
    harness.show("filter_cost_10", found["few_us"], "µs/event")
    harness.show("filter_change_10k", found["change_ms"], "ms")
    harness.show("filter_cost_10k", found["many_us"], "µs/event", ratio=ratio, vs="filter_cost_10")
