"""Metrics: what each is called and means, and the cheap counters that they are read from.

One catalogue for all roles, so that code, documents, dashboard and alert rules agree (tests/unit/test_metrics.py).
Labels take few values, but `subscription`, of which no more than `DISTRIBUTARY_METRICS_SUBSCRIPTIONS_MAX` are shown at
a time. This file publishes nothing (`connectors/metrics_server.py` does) and counts nothing by itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

import msgspec

Kind = Literal["counter", "gauge", "histogram"]


class Metric(msgspec.Struct, frozen=True):
    """A counter's name ends in `_total`, and everything with a unit in its unit."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


class Histogram:
    """Counts by upper bound, and their sum. `bounds` ascend, in units of which `scale` make one of the metric's: an
    integer that is measured need not become a float."""

    __slots__ = ("bounds", "counts", "scale", "sum")

    def __init__(self, bounds: Sequence[int], scale: int) -> None:
        self.bounds = bounds
        self.scale = scale
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0

    def observe(self, value: int) -> None:
        """One more; a bound holds what is equal to it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


#: (metric name, label values in the catalogue's order, value). Names are those of the catalogue.
Sample = tuple[str, tuple[str, ...], float | Histogram]

#: Upper bounds of what one request takes, in µs: 1 ms to 60 s.
REQUEST_US = tuple(
    ms * 1_000 for ms in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000)
)
#: Upper bounds of how old an event is, in ms: 5 ms to 3 days.
AGE_MS = (
    *(5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000),
    *(300_000, 1_800_000, 7_200_000, 36_000_000, 86_400_000, 259_200_000),
)

_WORKER = (
    Metric("distributary_subscriptions", "gauge", "Subscriptions in the worker's table."),
    Metric("distributary_consumer_lag_records", "gauge", "Offsets after the committed one.", ("group", "topic")),
    Metric("distributary_assigned_partitions", "gauge", "Partitions that are this worker's.", ("group",)),
    Metric("distributary_rebalances_total", "counter", "Partitions assigned, given up or lost.", ("group",)),
    Metric("distributary_transactions_total", "counter", "Groups of results written, by result.", ("group", "result")),
    Metric("distributary_transaction_seconds", "histogram", "What writing a group of results took.", ("group",)),
    Metric("distributary_unsettled_records", "gauge", "Records that wait to be durable.", ("group",)),
    Metric("distributary_quarantined_total", "counter", "Records moved to quarantine.", ("reason",)),
    Metric("distributary_dead_letters_total", "counter", "Deliveries given up.", ("reason",)),
    Metric("distributary_spans_total", "counter", "Spans of traces, by whether the collector got them.", ("result",)),
)

_FAN_OUT = (
    Metric("distributary_events_total", "counter", "Events read."),
    Metric("distributary_events_matched_total", "counter", "Events that a subscription asks for."),
    Metric("distributary_events_unmatched_total", "counter", "Events that no subscription asks for."),
    Metric("distributary_deliveries_planned_total", "counter", "Deliveries made of events."),
    Metric("distributary_deliveries_filtered_total", "counter", "Deliveries that a filter left out."),
)

_DELIVERY = (
    Metric("distributary_deliveries_total", "counter", "What became of deliveries, attempt by attempt.", ("outcome",)),
    Metric("distributary_attempts_total", "counter", "POSTs that ended, by status class.", ("status",)),
    Metric("distributary_attempt_failures_total", "counter", "POSTs without a usable answer.", ("cause",)),
    Metric("distributary_attempt_seconds", "histogram", "From sending a request to its answer."),
    Metric("distributary_first_attempt_seconds", "histogram", "From the event in Kafka to its first attempt."),
    Metric("distributary_delivered_seconds", "histogram", "From the event in Kafka to its acceptance."),
    Metric("distributary_in_flight", "gauge", "POSTs under way."),
    Metric("distributary_in_flight_max", "gauge", "POSTs that may be under way."),
    Metric("distributary_waiting_deliveries", "gauge", "Deliveries that wait in lanes.", ("queue",)),
    Metric("distributary_lane_depth_max", "gauge", "Deliveries that wait in the deepest lane."),
    Metric("distributary_circuits", "gauge", "Endpoints in use, by the state of their circuit.", ("state",)),
    Metric("distributary_circuit_changes_total", "counter", "Circuits opened and closed, endpoints disabled.", ("to",)),
    Metric("distributary_parked_total", "counter", "Deliveries moved to the log of parked ones."),
    Metric("distributary_retry_hops_total", "counter", "Moves from one retry tier to a shorter one."),
    Metric("distributary_retry_depth_records", "gauge", "Offsets in a retry tier after the committed one.", ("tier",)),
    Metric("distributary_retry_oldest_seconds", "gauge", "Age of the head of a retry tier.", ("tier",)),
    Metric(
        "distributary_oldest_undelivered_seconds",
        "gauge",
        "Age of the oldest event that is not delivered yet (of what is parked: since it was), of the subscriptions "
        "where it is oldest.",
        ("subscription",),
    ),
    Metric(
        "distributary_subscription_waiting_deliveries",
        "gauge",
        "Deliveries that wait in the lanes of the same subscriptions.",
        ("subscription",),
    ),
)

_REPLAY = (
    Metric("distributary_replay_active", "gauge", "1 in the worker that runs the replays, 0 in those that stand by."),
    Metric("distributary_replays", "gauge", "Replays that are not over, by state.", ("state",)),
    Metric("distributary_replay_deliveries_total", "counter", "Deliveries that replays have made."),
    Metric(
        "distributary_replay_remaining_deliveries",
        "gauge",
        "Deliveries that replays which run or are paused have still to make.",
    ),
)

_HISTORY = (
    Metric("distributary_history_stored_total", "counter", "Attempts added to the database."),
    Metric("distributary_history_undecodable_total", "counter", "Records that are no attempts, passed over."),
)

_EVERY_ROLE = (
    Metric("distributary_ready", "gauge", "1 when /readyz says so, 0 otherwise.", ("role",)),
    Metric("distributary_http_requests_total", "counter", "Requests to the API or the registry.", ("role", "status")),
    Metric("distributary_http_request_seconds", "histogram", "What answering a request took.", ("role",)),
    Metric("distributary_ingest_queue_records", "gauge", "Records that wait for Kafka in the API."),
)

#: Made by the library, of the process itself; named here because dashboards and documents name them.
PROCESS = (
    Metric("process_cpu_seconds_total", "counter", "User and system CPU time."),
    Metric("process_resident_memory_bytes", "gauge", "Memory in use."),
    Metric("process_virtual_memory_bytes", "gauge", "Memory reserved."),
    Metric("process_start_time_seconds", "gauge", "When the process began, since the epoch."),
    Metric("process_open_fds", "gauge", "Open files, of which each connection is one."),
    Metric("process_max_fds", "gauge", "Files that may be open."),
)

#: Ours, by who shows them: a table of the reference each.
BY_ROLE: dict[str, tuple[Metric, ...]] = {
    "Every role": _EVERY_ROLE,
    "Every worker": _WORKER,
    "Workers that fan out": _FAN_OUT,
    "Workers that deliver": _DELIVERY,
    "Workers that replay": _REPLAY,
    "The history": _HISTORY,
}
METRICS: dict[str, Metric] = {metric.name: metric for group in BY_ROLE.values() for metric in group}
