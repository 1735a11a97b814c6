"""`catch_up_100k`, `memory_100k`, `match_cost_100k`: what a hundred thousand subscriptions cost."""

from __future__ import annotations

import base64
import hashlib
import time

import psutil

from bench import harness
from bench.harness import cpu_s, report
from bench.world import make_world, settings
from connectors.subscriptions import SubscriptionsTable
from schemas import codec
from schemas.subscription import Subscription
from streams.core.match import MatchIndex
from streams.wiring import client_config, make_registry

MANY = 100_000
FEW = 100
TENANTS = 1_000
MATCHES = 10  # subscriptions of one tenant that ask for the measured type
ROUNDS = 200_000


def subscription(number: int, total: int) -> Subscription:
    """Distinct URLs, secrets and tenants; `MATCHES` of them ask for `order.created` of the tenant `t0`."""
    secret = base64.b64encode(hashlib.sha256(str(number).encode()).digest()).decode()
    step = total // MATCHES
    wanted = number % step == 0
    tenant = "t0" if wanted else f"t{number % TENANTS}"
    kind = "order.created" if wanted else f"kind{number % 50}.changed"
    return Subscription(
        id=f"sub_{number:08d}",
        url=f"https://customer{number}.example.com/webhooks/{number}",
        event_types=(kind, f"other{number % 20}.*"),
        secrets=(f"whsec_{secret}",),
        tenant=tenant,
        description=f"customer {number}",
    )


async def follow(bootstrap: str, prefix: str, total: int) -> None:
    """A role: reports seconds and CPU seconds to catch up, MiB per table, and µs per match."""
    chosen = settings(bootstrap, prefix, 1)
    process = psutil.Process()
    table = SubscriptionsTable(
        client_config(chosen),
        chosen.topics.subscriptions,
        index=MatchIndex(),
        schemas=make_registry(chosen),
    )
    before, started, worked = process.memory_info().rss, time.monotonic(), cpu_s()
    await table.start()
    took, worked = time.monotonic() - started, cpu_s() - worked
    memory = (process.memory_info().rss - before) / (1 << 20)
    if len(table) != total:
        raise RuntimeError(f"the table holds {len(table)} of {total} subscriptions")
    # Types that were not seen before, since remembered results would hide what finding them costs.
    matched = 0
    started_at = cpu_s()
    for number in range(ROUNDS):
        matched += len(table.match("t0", "order.created" if number % 2 else f"other{number % 20}.x{number}"))
    cost = (cpu_s() - started_at) / ROUNDS * 1e6
    report({"seconds": took, "cpu_s": worked, "mib": memory, "match_us": cost, "matched": matched})
    await table.stop()


def fill(bootstrap: str, total: int) -> str:
    """A compacted topic with so many subscriptions, as Avro; the prefix."""
    world = make_world(bootstrap, 1)
    schema = codec.parse_schema(codec.own_schema("subscription.v4"))
    producer = harness.filler(bootstrap)
    for number in range(total):
        entry = subscription(number, total)
        fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
        fields |= {name: list(value) for name, value in fields.items() if isinstance(value, tuple)}
        producer.produce(
            world.topics.subscriptions, codec.encode(world.schema_ids.subscription, schema, fields), entry.id
        )
    producer.flush()
    return world.topics.prefix


def main(bootstrap: str) -> None:
    """A hundred and a hundred thousand, one after the other."""
    few = harness.run("bench.table:follow", bootstrap=bootstrap, prefix=fill(bootstrap, FEW), total=FEW)
    many = harness.run("bench.table:follow", bootstrap=bootstrap, prefix=fill(bootstrap, MANY), total=MANY)
    harness.show("catch_up_100k", many["seconds"], "s")
    harness.show("memory_100k", many["mib"], "MiB")
    harness.show("match_cost_100", few["match_us"], "µs/event")
    harness.show(
        "match_cost_100k", many["match_us"], "µs/event", ratio=many["match_us"] / few["match_us"], vs="match_cost_100"
    )
