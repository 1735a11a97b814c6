"""`python -m bench [NAME ...]`: run the measurements on one real Kafka."""

from __future__ import annotations

import os
import platform
import sys

from bench import (
    agent_events,
    api_writes,
    backlog,
    deliveries,
    fan_out,
    filters,
    hang,
    harness,
    history,
    incident,
    ingest,
    latency,
    metrics_cost,
    neighbour,
    rebalance,
    render,
    replay,
    table,
)
from connectors.local_kafka import KafkaUnavailable, kafka_cluster

#: What can be asked for, and the measurement that prints it.
FIGURES = {
    "agent_events": agent_events.main,
    "fan_out_records": fan_out.main,
    "deliveries": deliveries.main,
    "latency_p50": latency.main,
    "latency_p99": latency.main,
    "latency_alo_p50": latency.main,
    "latency_alo_p99": latency.main,
    "catch_up_100k": table.main,
    "memory_100k": table.main,
    "match_cost_100k": table.main,
    "filter_cost_10k": filters.main,
    "neighbour_p99": neighbour.p99,
    "neighbour_rate": neighbour.rate,
    "hang_rate": hang.main,
    "hang_p50": hang.main,
    "hang_p99": hang.main,
    "backlog_rate": backlog.main,
    "backlog_memory": backlog.main,
    "incident_p99": incident.main,
    "rebalance_pause": rebalance.main,
    "decode_render": render.main,
    "api_writes": api_writes.main,
    "api_writes_p50": api_writes.main,
    "api_writes_p99": api_writes.main,
    "ingest": ingest.main,
    "ingest_cpu": ingest.main,
    "ingest_ids": ingest.main,
    "ingest_ids_cpu": ingest.main,
    "history": history.main,
    "history_delivery": history.main,
    "history_failures": history.main,
    "metrics_cost": metrics_cost.main,
    "replay": replay.main,
    "replay_cpu": replay.main,
    "replay_memory": replay.main,
    "replay_sent": replay.main,
}


def main(names: list[str]) -> int:
    """Run what is named, everything when nothing is; the exit code."""
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        harness.note(f"No figure is called {unknown[0]!r}; there are {', '.join(FIGURES)}.")
        return 2
    wanted = dict.fromkeys(FIGURES[name] for name in names or FIGURES)
    try:
        with kafka_cluster(given=os.environ.get("DISTRIBUTARY_BOOTSTRAP"), progress=harness.note) as cluster:
            harness.note(
                f"Apache Kafka {cluster.version} ({cluster.kind}), Python {platform.python_version()}, "
                f"{os.cpu_count()} cores shared by Kafka, the sink and the measured process"
            )
            for measure in wanted:
                measure(cluster.bootstrap)
    except KafkaUnavailable as error:
        harness.note(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
