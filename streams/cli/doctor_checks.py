"""What `distributary doctor` looks at: each check asks the world, and gives its findings.

Part of the composition root. What figures mean is judged in `streams/core/diagnosis.py`. No check changes anything, but
for the transactional id that one of them asks Kafka for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from connectors.admin import check_topics
from connectors.clock import SystemClock
from connectors.cluster_state import first_records, leaderless, list_brokers, newest_timestamps, try_transactions
from connectors.endpoints import EndpointTable
from connectors.group_offsets import ToEarliest, plan_reset, running_members
from connectors.http_sender import HttpSender, NotConnectedError
from connectors.newest import NewestFirst
from connectors.subscriptions import ById, SubscriptionsTable
from schemas.codec import wire_schema_id
from schemas.credentials import parse_tls
from schemas.endpoint import url_hash
from schemas.endpoint_tls import EndpointTls
from schemas.errors import UndecodableError, UnknownSchemaError, UnsealableError
from schemas.subscription import Subscription
from streams.cli.endpoints import in_words, read_health
from streams.cli.options import open_registry
from streams.cli.output import many
from streams.cli.running import sentence
from streams.core.diagnosis import Backlog, Finding, judge_certificate, judge_clock, judge_group, named
from streams.ports import Registry
from streams.secret_keys import SecretKeys
from streams.settings import Settings
from streams.wiring import Role, client_config, make_guard, otel

#: Between two looks at groups whose records wait for too long: do they get on?
LOOK_S = 2.0
#: What one check may take. A table of a hundred thousand subscriptions is read in a tenth of that.
CHECK_S = 60.0
#: What one endpoint's probe may take, with the resolution of its name.
PROBE_S = 5.0

Check = Callable[[], Awaitable[list[Finding]]]


async def examine(settings: Settings, late_ms: int, endpoint: str | None) -> list[Finding]:
    """All checks, or as many as make sense: nothing is asked of a cluster that does not answer, or has no topics."""
    findings = await _guarded("kafka", lambda: _kafka(settings))
    if _any_wrong(findings):
        return findings
    topics = await _guarded("topics", lambda: _topics(settings))
    findings += topics
    findings += await _guarded("schemas", lambda: _schemas(settings))
    if any("does not exist" in each.sentence for each in topics):
        return [*findings, Finding("note", "topics", "the rest is looked at once every topic exists")]
    for area, check in (
        ("groups", lambda: _groups(settings, late_ms)),
        ("clocks", lambda: _clocks(settings)),
        ("subscriptions", lambda: _subscriptions(settings)),
    ):
        findings += await _guarded(area, check)
    if settings.traces:
        findings += await _guarded("traces", lambda: _traces(settings))
    if endpoint is not None:
        findings += await _guarded("endpoint", lambda: _endpoint(settings, endpoint))
    return findings


def _any_wrong(findings: Sequence[Finding]) -> bool:
    return any(each.level == "wrong" for each in findings)


async def _guarded(area: str, check: Check, deadline_s: float = CHECK_S) -> list[Finding]:
    """What hinders a check is a finding itself, and so is that it does not end."""
    deadline = asyncio.timeout(deadline_s)
    try:
        async with deadline:
            return await check()
    except Exception as error:  # noqa: BLE001 - whatever it is, people get a sentence, and the other checks go on
        if deadline.expired():
            sentence_ = (
                f"this check did not end within {deadline_s:g} s; what it asks is slow or hangs: look there first"
            )
            return [Finding("wrong", area, sentence_)]
        return [Finding("wrong", area, sentence(error))]


# --- Kafka and topics -------------------------------------------------------------------------------------------------


async def _kafka(settings: Settings) -> list[Finding]:
    from connectors.frames import group_protocol  # noqa: PLC0415 - Faust comes with it

    config = client_config(settings)
    brokers = await list_brokers(config)
    found = [Finding("ok", "kafka", f"{len(brokers)} broker{'s' * (len(brokers) != 1)} answer: {named(brokers)}")]
    protocol = await asyncio.to_thread(group_protocol, config)
    wanted = settings.group_protocol
    if wanted == "consumer" and protocol == "classic":
        sentence_ = "group_protocol is consumer, which this cluster does not take (it needs Kafka 4.0); leave it out"
        found.append(Finding("wrong", "kafka", sentence_))
    elif protocol == "classic":
        sentence_ = "this cluster has classic groups only: a rebalance stops all workers; Kafka 4.0 has better ones"
        found.append(Finding("note", "kafka", sentence_))
    else:
        found.append(Finding("ok", "kafka", "consumer groups of KIP-848 are there"))
    if settings.guarantee == "exactly_once":
        await try_transactions(config, f"{settings.group('delivery')}.doctor.check")
        found.append(Finding("ok", "kafka", "transactions work"))
    return found


async def _topics(settings: Settings) -> list[Finding]:
    config, specs = client_config(settings), settings.topics.specs()
    found = [
        Finding("wrong", "topics", f"{problem}; run `distributary topics apply`")
        for problem in await check_topics(config, specs)
    ]
    headless = await leaderless(config, [spec.name for spec in specs])
    if headless:
        found.append(Finding("wrong", "topics", f"no broker leads {named(headless)}; bring the brokers back that do"))
    return found or [Finding("ok", "topics", f"all {len(specs)} topics are as they should be")]


async def _schemas(settings: Settings) -> list[Finding]:
    """The registry answers, and knows what the newest events were written with."""
    async with open_registry(settings) as registry:
        count = len(await registry.subjects())
        where = "the schema registry" if settings.registry_url else "the embedded registry"
        unknown = await _unknown_schemas(settings, registry)
        if unknown:
            sentence_ = (
                f"{where} does not know the schemas of the newest events ({named(unknown)}); they go to quarantine:"
                " register them, or set the registry that their producers use"
            )
            return [Finding("wrong", "schemas", sentence_)]
    return [Finding("ok", "schemas", f"{where} answers, with {many(count, 'subject')}")]


async def _unknown_schemas(settings: Settings, registry: Registry) -> list[str]:
    config, topic = client_config(settings), settings.topics.events
    places = [
        (move.topic, move.partition)
        for move in await plan_reset(config, settings.group("fan-out"), [topic], ToEarliest())
        if move.end > move.target
    ]
    unknown = []
    newest = NewestFirst(config, topic)
    try:
        for _, partition in places:
            records, _ = await newest.read(partition, None)
            for record in records[:1]:
                try:
                    schema_id = wire_schema_id(record.value())
                    await registry.schema(schema_id)
                except UndecodableError:
                    continue  # what is no event at all is told by its quarantine
                except UnknownSchemaError:
                    unknown.append(f"{topic}[{partition}] offset {record.offset()}, id {schema_id}")
    finally:
        await newest.close()
    return unknown


# --- groups and clocks ------------------------------------------------------------------------------------------------


async def _groups(settings: Settings, late_ms: int) -> list[Finding]:
    """Fan-out and delivery: who works, and how long what is to be done first waits. Retries wait as they should."""
    topics = settings.topics
    found: list[Finding] = []
    first: dict[Role, str] = {"fan-out": topics.events, "delivery": topics.deliveries}
    for role, topic in first.items():
        members = await running_members(client_config(settings), settings.group(role))
        before = after = await _backlog(settings, role, topic)
        now_ms = SystemClock().now_ms()
        if members and any(each.oldest_ms is not None and now_ms - each.oldest_ms > late_ms for each in before):
            await asyncio.sleep(LOOK_S)
            after = await _backlog(settings, role, topic)
            now_ms = SystemClock().now_ms()
        found += judge_group(role, len(members), before, after, now_ms, late_ms)
    return found


async def _backlog(settings: Settings, role: Role, topic: str) -> list[Backlog]:
    config = client_config(settings)
    moves = await plan_reset(config, settings.group(role), [topic], ToEarliest())
    stands = {(move.topic, move.partition): max(move.committed or 0, move.target) for move in moves}
    waiting = [
        (*place, offset) for (place, offset), move in zip(stands.items(), moves, strict=True) if offset < move.end
    ]
    first = await first_records(config, waiting)
    return [
        Backlog(
            move.topic,
            move.partition,
            stands[move.topic, move.partition],
            first[move.topic, move.partition].timestamp()[1] if (move.topic, move.partition) in first else None,
            max(0, move.target - move.committed) if move.committed is not None else 0,
        )
        for move in moves
    ]


async def _clocks(settings: Settings) -> list[Finding]:
    topics = settings.topics
    wanted = [topics.events, topics.deliveries, topics.attempts, topics.endpoints_state, topics.subscriptions]
    newest_ms = await newest_timestamps(client_config(settings), wanted)
    return [judge_clock(newest_ms, SystemClock().now_ms())]


# --- traces -----------------------------------------------------------------------------------------------------------


async def _traces(settings: Settings) -> list[Finding]:
    """The collector takes spans: it is sent none."""
    connector = otel()
    where = connector.asked(settings.traces_endpoint)
    why = await asyncio.to_thread(connector.why_not, settings.traces_endpoint, settings.traces_headers, PROBE_S)
    if why:
        sentence_ = f"the collector at {where} does not take spans: {why}; start it, or correct traces_endpoint"
        return [Finding("wrong", "traces", sentence_)]
    return [Finding("ok", "traces", f"the collector at {where} takes spans")]


# --- subscriptions and one endpoint -----------------------------------------------------------------------------------


async def _subscriptions(settings: Settings) -> list[Finding]:
    config, topics = client_config(settings), settings.topics
    index = ById()
    async with open_registry(settings) as registry:
        table = SubscriptionsTable(config, topics.subscriptions, index=index, schemas=registry)
        states = EndpointTable(config, topics.endpoints_state)
        for each in (table, states):
            try:
                await each.start()
            finally:
                await each.stop()
    everything = list(index.after(None))
    opener = SecretKeys(settings).open
    locked, unverified, disabled = [], [], []
    for subscription in everything:
        if subscription.state != "active":
            continue
        state = states.get(subscription.id)
        if state is not None and state.disabled_ms and state.url_hash == url_hash(subscription.url):
            disabled.append(subscription.id)
        if subscription.unverified:
            unverified.append(subscription.id)
        if not _opens(opener, subscription):
            locked.append(subscription.id)
    found = []

    def wrong(count: int, said: str) -> None:
        if count:
            found.append(Finding("wrong", "subscriptions", f"{count} {said}"))

    wrong(
        sum(table.bad.values()),
        f"records of {topics.subscriptions} are no subscriptions; see `distributary quarantine list`, and put them"
        " again",
    )
    wrong(
        len(locked),
        f"subscriptions have secrets that do not open ({named(locked)}), so nothing is sent to them; add the key that"
        " sealed them to DISTRIBUTARY_SECRET_KEYS",
    )
    wrong(
        len(unverified),
        f"endpoints are not verified ({named(unverified)}), so nothing is sent to them; run `distributary subscriptions"
        " verify ID`",
    )
    wrong(
        len(disabled),
        f"endpoints are disabled ({named(disabled)}); see `distributary endpoints list --disabled`, and enable them"
        " once they work",
    )
    if bad := sum(states.bad.values()):
        sentence_ = f"{bad} records on {topics.endpoints_state} cannot be decoded, and count for nothing"
        found.append(Finding("note", "subscriptions", sentence_))
    return found or [Finding("ok", "subscriptions", f"{len(everything)} subscriptions are in order")]


def _opens(opener: Callable[[Subscription], Subscription], subscription: Subscription) -> bool:
    try:
        opener(subscription)
    except UnsealableError:
        return False
    return True


async def _endpoint(settings: Settings, id_: str) -> list[Finding]:
    """Whether it can be reached as a delivery would, without sending anything."""
    health = (await read_health(settings)).get(id_)
    if health is None:
        sentence_ = f"there is no subscription {id_!r}; see `distributary subscriptions list`"
        return [Finding("wrong", "endpoint", sentence_)]
    found = []
    if health.state is not None and not health.good:
        sentence_ = f"{id_} is not healthy: {in_words(health.state)}; see `distributary endpoints enable`"
        found.append(Finding("wrong", "endpoint", sentence_))
    if settings.proxy is not None:
        return [*found, Finding("note", "endpoint", f"{id_} is reached through a proxy, and is not connected to here")]
    return found + await _reached(settings, SecretKeys(settings).open(health.subscription))


async def _reached(settings: Settings, subscription: Subscription) -> list[Finding]:
    id_ = subscription.id
    sender = HttpSender(await make_guard(settings), connect_timeout_s=PROBE_S)
    try:
        tls = None
        if subscription.tls:
            given = parse_tls(subscription.tls)
            tls = EndpointTls(owner=id_, certificate=given.certificate, key=given.key, ca=given.ca)
        route = sender.route(subscription.url, {}, PROBE_S, tls)
        until_ms = await sender.probe(route)
    except (NotConnectedError, ValueError) as error:
        said = str(error).removesuffix(".")
        return [Finding("wrong", "endpoint", f"{id_} is not reached: {said}; correct its URL, or tell its owner")]
    finally:
        await sender.close()
    host = route.pool.target.host
    if until_ms is None:
        return [Finding("ok", "endpoint", f"{id_} is reached at {host}, without TLS")]
    found = judge_certificate(host, until_ms, SystemClock().now_ms())
    return [Finding("ok", "endpoint", f"{id_} is reached at {host}"), found]
