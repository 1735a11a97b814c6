"""`distributary doctor` on a real Kafka: each thing that can be wrong is caused, and found, with what to do next."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from connectors.address_guard import AddressGuard
from connectors.admin import ClusterError, apply_topics, check_topics, delete_topics
from connectors.cluster_state import first_records, leaderless, newest_timestamps, try_transactions
from connectors.http_sender import HttpSender, NotConnectedError
from connectors.local_kafka import Cluster
from connectors.resolver import Resolver
from schemas import codec
from schemas.endpoint import EndpointState, encode_state, url_hash
from schemas.topics import Topics
from streams.cli.doctor_checks import _guarded, _traces, examine
from streams.core.diagnosis import Finding
from streams.settings import Settings
from tests.cli import Cli
from tests.conformance.sender_server import Peer, serving
from tests.helpers import eventually
from tests.otlp import collecting

URL = "https://acme.example/hooks"
ACME: dict[str, Any] = {"id": "acme", "url": URL, "event_types": ["*"]}


@pytest.fixture
async def cli(tmp_path: Path, kafka: Cluster, prefix: str) -> Cli:
    await apply_topics({"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2).specs(), -1)
    return Cli(tmp_path, {"bootstrap": kafka.bootstrap, "prefix": prefix, "allow_private_networks": "true"})


def put(cli: Cli, *objects: dict[str, Any]) -> None:
    cli.run("subscriptions", "put", "-", stdin="\n".join(map(json.dumps, objects)))


def produce(cli: Cli, topic: str, value: bytes, key: str | None = None, timestamp_ms: int = 0) -> None:
    producer = Producer({"bootstrap.servers": cli.settings["bootstrap"]})
    producer.produce(cli.settings["prefix"] + topic, value, key, timestamp=timestamp_ms or int(time.time() * 1000))
    assert producer.flush(60) == 0


def findings(cli: Cli, *options: str, code: int = 0) -> list[dict[str, str]]:
    """By the JSON form; what is said is the same in the other one."""
    return [json.loads(line) for line in cli.run("doctor", "--json", *options, code=code).stdout.splitlines()]


def wrong(cli: Cli, *options: str) -> list[tuple[str, str]]:
    """(area, sentence) of what is wrong, of which there must be something."""
    return [(each["area"], each["sentence"]) for each in findings(cli, *options, code=1) if each["level"] == "wrong"]


def test_all_is_well(cli: Cli) -> None:
    put(cli, ACME)
    found = findings(cli)
    assert {each["level"] for each in found} == {"ok", "note"}
    assert {each["area"] for each in found} == {"kafka", "topics", "schemas", "groups", "clocks", "subscriptions"}
    said = cli.run("doctor").stdout
    assert "ok     kafka          1 broker answer: " in said
    assert "ok     kafka          transactions work\n" in said
    assert "ok     subscriptions  1 subscriptions are in order\n" in said
    assert "note   groups         no worker with the role delivery runs; nothing waits for one\n" in said


def test_no_kafka(cli: Cli) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ((area, sentence),) = wrong(cli, "--bootstrap", address)
    assert (area, sentence.startswith(f"no Kafka answers at {address}")) == ("kafka", True)


def test_topics_that_are_missing_or_differ(cli: Cli) -> None:
    nowhere = findings(cli, "--prefix", "nowhere.", code=1)
    assert any("nowhere.events does not exist; run `distributary topics apply`" in each["sentence"] for each in nowhere)
    assert nowhere[-1]["sentence"] == "the rest is looked at once every topic exists"

    name = f"{cli.settings['prefix']}events"
    entry = ConfigEntry("retention.ms", "60000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": cli.settings["bootstrap"]})
    admin.incremental_alter_configs([resource])[resource].result(60)

    async def told() -> bool:
        config = {"bootstrap.servers": cli.settings["bootstrap"]}
        return bool(await check_topics(config, Topics(cli.settings["prefix"], 2).specs()))

    eventually(lambda: asyncio.run(told()), message="the setting")
    assert json.loads(cli.run("topics", "check", "--json", code=1).stdout)["problems"]
    ((area, sentence),) = wrong(cli)
    assert area == "topics"
    assert f"the topic {name} has retention.ms=60000" in sentence
    assert sentence.endswith("; run `distributary topics apply`")


def test_events_that_nobody_takes_and_schemas_that_nobody_knows(cli: Cli) -> None:
    produce(cli, "events", codec.wire_header(4_711) + b"x")
    areas = dict(wrong(cli))
    assert areas.keys() == {"schemas", "groups"}
    assert "offset 0, id 4711" in areas["schemas"]
    assert areas["groups"].startswith("no worker with the role fan-out runs, and records wait since ")


def test_a_worker_that_works_and_one_that_is_stuck(cli: Cli) -> None:
    with cli.started("worker", "--worker-id", "w") as worker:
        worker.said("ready")
        assert not [each for each in findings(cli) if each["level"] == "note" and each["area"] == "groups"]
        worker.process.send_signal(signal.SIGTERM)
        worker.ends(0)
    with member_that_does_nothing(cli):
        produce(cli, "events", b"x", timestamp_ms=int(time.time() * 1000) - 600_000)
        areas = dict(wrong(cli, "--late-s", "300"))
    assert areas["groups"].startswith(f"fan-out does not get on with {cli.settings['prefix']}events[")
    assert "waits since 10 min; see its workers' logs" in areas["groups"]


@contextmanager
def member_that_does_nothing(cli: Cli) -> Iterator[None]:
    """One of the fan-out group that has its partitions and keeps its membership, and reads nothing."""
    settings = Settings(bootstrap=cli.settings["bootstrap"], prefix=cli.settings["prefix"])
    assigned = threading.Event()
    done = threading.Event()
    consumer = Consumer(
        {
            "bootstrap.servers": cli.settings["bootstrap"],
            "group.id": settings.group("fan-out"),
            "group.protocol": "consumer",
            "group.remote.assignor": "range",
        }
    )

    def take(_: Consumer, places: list[TopicPartition]) -> None:
        consumer.incremental_assign(places)
        consumer.pause(places)
        assigned.set()

    def stay() -> None:
        while not done.is_set():
            consumer.poll(0.1)
        consumer.close()

    consumer.subscribe([settings.topics.events], on_assign=take)
    staying = threading.Thread(target=stay)
    staying.start()
    try:
        assert assigned.wait(60)
        yield
    finally:
        done.set()
        staying.join()


def test_a_clock_that_is_ahead(cli: Cli) -> None:
    produce(cli, "attempts", b"x", timestamp_ms=int(time.time() * 1000) + 1_800_000)
    ((area, sentence),) = wrong(cli)
    assert area == "clocks"
    assert f"a record of {cli.settings['prefix']}attempts is " in sentence
    assert "let NTP set" in sentence


def test_subscriptions_that_get_nothing(cli: Cli) -> None:
    keys = cli.directory / "keys"
    keys.write_text(cli.run("secret-keys", "new", "--id", "k1").stdout)
    sealing = Cli(cli.directory, cli.settings | {"secret_keys_file": str(keys)})
    put(sealing, ACME)
    put(cli, ACME | {"id": "asks", "verification": "ping"}, ACME | {"id": "off"}, ACME | {"id": "rests"})
    put(cli, ACME | {"id": "rests", "state": "paused", "verification": "ping"})
    header = codec.wire_header(codec.content_id(codec.own_schema("endpoint_state.v1")))
    for id_, url in (("off", URL), ("asks", "https://acme.example/before")):
        state = EndpointState(subscription_id=id_, disabled_ms=1, url_hash=url_hash(url))
        produce(cli, "endpoints.state", encode_state(header, state), id_)
    produce(cli, "endpoints.state", b"{}", "off2")
    produce(cli, "subscriptions", b"{", "broken")
    found = findings(cli, code=1)
    said = [each["sentence"] for each in found if each["level"] == "wrong"]
    assert [sentence.partition(";")[0] for sentence in said] == [
        f"1 records of {cli.settings['prefix']}subscriptions are no subscriptions",
        "1 subscriptions have secrets that do not open (acme), so nothing is sent to them",
        "1 endpoints are not verified (asks), so nothing is sent to them",
        "1 endpoints are disabled (off)",
    ]
    assert any(each["level"] == "note" and "endpoints.state cannot be decoded" in each["sentence"] for each in found)
    assert not any("do not open" in sentence for _, sentence in wrong(sealing))


# --- one endpoint -----------------------------------------------------------------------------------------------------


async def hold(peer: Peer) -> None:
    """Take the connection, and let nobody send anything: a byte fails the test."""
    assert await peer._reader.read(1) == b""


async def test_an_endpoint_is_connected_to_and_nothing_is_sent(cli: Cli) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    settings = Settings(bootstrap=cli.settings["bootstrap"], prefix=cli.settings["prefix"], allow_private_networks=True)
    trusted = {"tls": {"ca": authority.cert_pem.bytes().decode()}}
    async with serving(hold) as plain, serving(hold, tls=context) as tls:
        put(
            cli,
            ACME | {"id": "plain", "url": plain.url()},
            ACME | {"id": "tls", "url": tls.url()} | trusted,
            ACME | {"id": "strange", "url": tls.url()},
        )
        assert [each.sentence for each in await examine(settings, 60_000, "plain") if each.area == "endpoint"] == [
            "plain is reached at 127.0.0.1, without TLS"
        ]
        reached, certificate = [each for each in await examine(settings, 60_000, "tls") if each.area == "endpoint"]
        assert (reached.level, reached.sentence) == ("ok", "tls is reached at 127.0.0.1")
        assert certificate.sentence.startswith("the certificate of 127.0.0.1 is good for ")
        (strange,) = [each for each in await examine(settings, 60_000, "strange") if each.area == "endpoint"]
        assert strange.level == "wrong"
        assert strange.sentence.startswith("strange is not reached: TLS with 127.0.0.1 failed: ")
        assert plain.requests == tls.requests == []
    (gone,) = [each for each in await examine(settings, 60_000, "plain") if each.area == "endpoint"]
    assert (gone.level, "Connection refused" in gone.sentence) == ("wrong", True)


def test_endpoints_that_are_not_there_or_not_allowed(cli: Cli) -> None:
    put(cli, ACME | {"url": "https://169.254.169.254/"}, ACME | {"id": "off"})
    assert ("endpoint", "there is no subscription 'no'; see `distributary subscriptions list`") in wrong(
        cli, "--endpoint", "no"
    )
    ((area, sentence),) = wrong(cli, "--endpoint", "acme")
    assert (area, "is a link-local address" in sentence) == ("endpoint", True)
    cli.run("endpoints", "disable", "off")
    proxied = Cli(cli.directory, cli.settings | {"proxy": "http://127.0.0.1:9"})
    found = [each for each in findings(proxied, "--endpoint", "off", code=1) if each["area"] == "endpoint"]
    assert [each["level"] for each in found] == ["wrong", "note"]
    assert found[0]["sentence"].startswith("off is not healthy: disabled at ")
    assert "through a proxy" in found[1]["sentence"]


async def test_a_probe_tells_until_when_the_certificate_is_good() -> None:
    authority = trustme.CA()
    until = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1", not_after=until).configure_cert(server)
    authority.configure_trust(client)
    sender = HttpSender(AddressGuard(allow_private=True), ssl_context=client, resolver=Resolver())
    async with serving(hold, tls=server) as endpoint:
        assert await sender.probe(sender.route(endpoint.url(), {}, 5.0)) == int(until.timestamp() * 1000)
        strict = HttpSender(AddressGuard())
        route = strict.route(endpoint.url(), {}, 5.0)
        with pytest.raises(NotConnectedError, match="loopback"):
            await strict.probe(route)
    await sender.close()
    await strict.close()


# --- the look at the cluster ------------------------------------------------------------------------------------------


async def test_first_records_and_newest_times(cli: Cli) -> None:
    config = {"bootstrap.servers": cli.settings["bootstrap"]}
    topic = f"{cli.settings['prefix']}events"
    assert await newest_timestamps(config, [topic, "nowhere"]) == {}
    assert await first_records(config, []) == {}
    past_ms = int(time.time() * 1000) - 3_600_000  # what is older than a week may be gone at any time
    for timestamp in (1_000, 3_000, 2_000):
        produce(cli, "events", b"x", "one key", past_ms + timestamp)
    assert await newest_timestamps(config, [topic]) == {topic: past_ms + 3_000}
    found = await first_records(config, [(topic, 0, 0), (topic, 1, 0)])
    ((place, record),) = found.items()
    assert (record.offset(), record.timestamp()[1]) == (0, past_ms + 1_000)
    ((_, second),) = (await first_records(config, [(*place, 1)])).items()
    assert (second.offset(), second.timestamp()[1]) == (1, past_ms + 3_000)
    assert await first_records(config, [(*place, 3)]) == {}
    assert await leaderless(config, [topic, "nowhere"]) == []
    await delete_topics(config, [topic])


async def test_transactions_that_are_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = {"bootstrap.servers": f"127.0.0.1:{taken.getsockname()[1]}"}
        with pytest.raises(ClusterError, match="no Kafka answers"):
            await try_transactions(nobody, "x")


async def test_a_check_that_does_not_end_is_a_finding() -> None:
    async def hangs() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def late() -> list[Finding]:
        raise TimeoutError("its own")

    (found,) = await _guarded("groups", hangs, 0.01)
    said = "this check did not end within 0.01 s; what it asks is slow or hangs: look there first"
    assert found == Finding("wrong", "groups", said)
    assert (await _guarded("groups", late))[0].sentence != said


async def test_the_collector_of_traces_is_asked() -> None:
    with collecting() as collector:
        settings = Settings(traces=True, traces_endpoint=collector.url)
        where = f"the collector at {collector.url}/v1/traces"
        assert await _traces(settings) == [Finding("ok", "traces", f"{where} takes spans")]
        assert collector.spans == []
    why = "Connection refused; start it, or correct traces_endpoint"
    assert await _traces(settings) == [Finding("wrong", "traces", f"{where} does not take spans: {why}")]
