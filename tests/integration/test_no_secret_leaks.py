"""Secrets are planted wherever a subscription may hold one, and everything that the system says is searched for them.

The system is a worker and an API with debug logging, and the command line with tracebacks; endpoints accept, fail and
send back what they were sent; records on the topic are good, in clear, broken, and sealed with a key that nobody has.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from connectors.admin import apply_topics
from connectors.feed import Reader
from connectors.local_kafka import Cluster
from schemas.topics import Topics
from streams.quarantine import REASON
from tests.cli import Cli, command
from tests.helpers import eventually

TOPICS_SEEN = ("events", "deliveries", "parked", "replay", "attempts", "dead", "quarantine", "operations")


TAIL = ("tail", "--from-beginning", "--no-follow", "--json")


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


#: By where each is planted. All are long and unlike anything else.
PLANTED = {
    "whsec": "whsec_" + b64("planted-symmetric-secret-0123456"),
    "whsk": "whsk_" + b64("planted-private-ed25519-key-0123"),
    "header": "planted-header-value-7f3a",
    "token": "planted-bearer-token-7f3a",
    "password": "planted-password-7f3a",
    "client_secret": "planted-client-secret-7f3a",
    "pem": b64("planted-pem-private-key-" + "7f3a" * 6),
    "clear": "whsec_" + b64("planted-in-clear-on-the-topic-01"),
    "clear_token": "planted-token-in-clear-7f3a",
    "broken": "whsec_" + b64("planted-in-a-broken-record-01234"),
    "misplaced": "planted-where-none-belongs-7f3a",
    "key": b64("planted-key-encryption-key-01234"),
    "lost_key": b64("planted-key-that-is-lost-0123456"),
    "bearer": "dsk_plantedplanted_planted-api-key-7f3a",
}
#: The same as it goes over the wire.
FORMS = [*PLANTED.values(), b64(f"user:{PLANTED['password']}"), b64(f"client:{PLANTED['client_secret']}")]
FORMS += [text.removeprefix("whsec_").removeprefix("whsk_") for text in PLANTED.values()]

PEM = f"-----BEGIN PRIVATE KEY-----\n{PLANTED['pem']}\n-----END PRIVATE KEY-----\n"
CERTIFICATE = f"-----BEGIN CERTIFICATE-----\n{b64('no certificate')}\n-----END CERTIFICATE-----\n"


class Echo(BaseHTTPRequestHandler):
    """Accepts at /ok; everywhere else it fails, and sends back all that it was sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        ok = self.path == "/ok"
        answer = b"" if ok else str(self.headers).encode() + body
        self.send_response(200 if ok else 400)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Not on the tests' stderr."""


@pytest.fixture
def echo() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


def subscription(id_: str, url: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "url": url, "event_types": ["*"], "retry_schedule_ms": []} | fields


def planted(port: int) -> list[dict[str, Any]]:
    """What is put with the command line, which seals it."""
    url = f"http://127.0.0.1:{port}"
    oauth2 = {"token_url": f"{url}/token", "client_id": "client", "client_secret": PLANTED["client_secret"]}
    return [
        subscription("accepts", f"{url}/ok", secrets=[PLANTED["whsec"], PLANTED["whsk"]]),
        subscription("header", f"{url}/echo", headers={"x-key": PLANTED["header"]}),
        subscription("bearer", f"{url}/echo", auth={"type": "bearer", "token": PLANTED["token"]}),
        subscription(
            "basic", f"{url}/echo", auth={"type": "basic", "username": "user", "password": PLANTED["password"]}
        ),
        subscription("oauth_basic", f"{url}/echo", auth={"type": "oauth2", **oauth2}),
        subscription("oauth_post", f"{url}/echo", auth={"type": "oauth2", "client_auth": "post", **oauth2}),
        subscription("tls", f"https://127.0.0.1:{port}/ok", tls={"certificate": CERTIFICATE, "key": PEM}),
    ]


def by_hand(port: int) -> list[tuple[str, bytes]]:
    """What somebody writes to the topic without the command line: in clear, and wrong in many ways."""
    url = f"http://127.0.0.1:{port}/echo"
    broken = subscription("broken", url, secrets=[PLANTED["broken"]])
    clear = subscription(
        "clear", url, secrets=[PLANTED["clear"]], auth={"type": "bearer", "token": PLANTED["clear_token"]}
    )
    return [
        ("clear", json.dumps(clear).encode()),
        ("broken", json.dumps(broken)[:-3].encode()),
        ("broken", json.dumps(broken | {"secrets": [PLANTED["broken"] + "!"]}).encode()),
        ("broken", json.dumps(broken | {"state": PLANTED["misplaced"]}).encode()),
        ("broken", json.dumps(broken | {"signatures": [PLANTED["misplaced"]]}).encode()),
        ("broken", json.dumps(broken | {"auth": {"type": PLANTED["misplaced"]}}).encode()),
        ("broken", json.dumps(broken | {"auth": PLANTED["misplaced"]}).encode()),
        ("broken", json.dumps(broken | {"tls": {"certificate": CERTIFICATE, "key": PLANTED["misplaced"]}}).encode()),
        ("another", json.dumps(broken).encode()),
        ("broken", b"\0\0\0\0\7" + json.dumps(broken).encode()),
    ]


async def everything(config: dict[str, str], topics: Topics) -> dict[str, bytes]:
    """All records of the system's topics, by topic, without what is there by the owners' own hands: subscriptions, and
    in quarantine what nobody can read yet."""
    names = [spec.name for spec in topics.specs() if spec.name != topics.subscriptions]
    found: dict[str, bytes] = {}
    async with Reader(config, names, from_beginning=True) as reader:
        async for batch in reader.batches(follow=False):
            for message in batch:
                if dict(message.headers() or ()).get(REASON) == b"unknown_schema":
                    continue
                record = (message.key() or b"") + (message.value() or b"") + str(message.headers()).encode()
                found[str(message.topic())] = found.get(str(message.topic()), b"") + record
    return found


def with_keys(cli: Cli, name: str, key: str) -> Cli:
    file = cli.directory / f"{name}.keys"
    file.write_text(f"{name}:{key}\n")
    return msgspec.structs.replace(cli, settings=cli.settings | {"secret_keys_file": str(file)})


def refused_with_traceback(cli: Cli, value: bytes) -> str:
    """What is said when this is put and must not be."""
    result = subprocess.run(
        command("--debug", "subscriptions", "put", "-"),
        input=value,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cli.directory,
        env=cli.env(),
        check=False,
        timeout=120,
    )
    assert result.returncode == 1
    said = result.stdout.decode()
    assert "Traceback" in said
    return said


def call_the_api(url: str) -> None:
    request = urllib.request.Request(
        f"{url}/v1/subscriptions?tenant=acme", headers={"authorization": f"Bearer {PLANTED['bearer']}"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 401
    assert PLANTED["bearer"] not in refused.value.read().decode()


@pytest.mark.timeout(400)
async def test_nothing_that_is_said_or_written_holds_a_secret(
    tmp_path: Path, kafka: Cluster, prefix: str, echo: int
) -> None:
    config, topics = {"bootstrap.servers": kafka.bootstrap}, Topics(prefix, 2)
    await apply_topics(config, topics.specs(), -1)
    settings = {"bootstrap": kafka.bootstrap, "prefix": prefix, "log_level": "DEBUG", "allow_private_networks": "true"}
    plain = Cli(tmp_path, settings)
    cli = with_keys(plain, "k1", PLANTED["key"])
    said: list[str] = []

    def run(cli: Cli, *arguments: str, stdin: str = "", code: int = 0) -> str:
        result = cli.run(*arguments, stdin=stdin, code=code)
        said.append(f"{arguments}: {result.stdout}{result.stderr}")
        return result.stdout

    lost = subscription("lost", f"http://127.0.0.1:{echo}/ok", secrets=[PLANTED["broken"]])
    run(with_keys(plain, "k9", PLANTED["lost_key"]), "subscriptions", "put", "-", stdin=json.dumps(lost))
    run(cli, "subscriptions", "put", "-", stdin="\n".join(map(json.dumps, planted(echo))))
    producer = Producer(config)
    for key, value in by_hand(echo):
        producer.produce(topics.subscriptions, value, key.encode())
    producer.flush()

    with cli.started("worker") as worker, cli.started("api", "--port", "0") as api:
        worker.said("ready: ", timeout_s=120)
        run(cli, "send", "--type", "order.created", "--data", "1")
        dead = {"header", "bearer", "basic", "oauth_basic", "oauth_post", "clear"}

        def settled() -> bool:
            ends = [json.loads(line) for line in run(cli, *TAIL, "attempts").splitlines()]
            known = {(each["key"], each["value"]["outcome"]) for each in ends}
            return ("accepts", "delivered") in known and {key for key, _ in known} >= dead

        eventually(settled, timeout_s=120)
        eventually(lambda: len(run(cli, *TAIL, "quarantine").splitlines()) == len(by_hand(echo)) - 1, timeout_s=60)
        call_the_api(api.said("ready: ", timeout_s=120).split()[1])
        for name in TOPICS_SEEN:
            run(cli, *TAIL, name)
        for arguments in (
            ("subscriptions", "list", "--json"),
            ("subscriptions", "list"),
            ("subscriptions", "get", "bearer"),
            ("subscriptions", "get", "clear"),
            ("endpoints", "list", "--json"),
            ("quarantine", "list", "--json"),
            ("topics", "check"),
        ):
            run(cli, *arguments)
        run(cli, "subscriptions", "reencrypt", code=1)  # the lost one does not open
        said += [refused_with_traceback(cli, value) for _, value in by_hand(echo)[1:8]]

    outputs = {file.name: file.read_text() for file in (worker.out, worker.err, api.out, api.err)}
    assert "lost: nothing is sent, its deliveries are parked" in outputs["worker.err"]
    assert "DEBUG" in outputs["worker.err"]
    outputs |= {f"said {number}": text for number, text in enumerate(said)}
    outputs |= {name: value.decode(errors="replace") for name, value in (await everything(config, topics)).items()}
    assert len(outputs) > 25
    leaks = [(where, form) for where, text in outputs.items() for form in FORMS if form in text]
    assert leaks == []
