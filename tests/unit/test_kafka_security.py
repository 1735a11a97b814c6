"""The settings of Kafka's security in librdkafka's words, and that no password is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from streams.kafka_security import kafka_security
from streams.settings import Settings
from streams.wiring import WorkerError, client_config

LOGIN: dict[str, Any] = {"kafka_username": "u", "kafka_password": "p4ss"}
SASL = {"sasl.username": "u", "sasl.password": "p4ss"}
OIDC: dict[str, Any] = {"kafka_sasl_mechanism": "OAUTHBEARER", "kafka_oidc_token_url": "https://id.example/token"}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {}),
        (LOGIN, {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512", **SASL}),
        (
            LOGIN | {"kafka_sasl_mechanism": "PLAIN", "kafka_security_protocol": "sasl_plaintext"},
            {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", **SASL},
        ),
        ({"kafka_ca_file": "ca.pem"}, {"security.protocol": "SSL", "ssl.ca.location": "ca.pem"}),
        (
            {"kafka_cert_file": "c.pem", "kafka_key_file": "k.pem", "kafka_key_password": "k3y"},
            {
                "security.protocol": "SSL",
                "ssl.certificate.location": "c.pem",
                "ssl.key.location": "k.pem",
                "ssl.key.password": "k3y",
            },
        ),
        (
            LOGIN | OIDC | {"kafka_oidc_scope": "kafka"},
            {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "OAUTHBEARER",
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.token.endpoint.url": "https://id.example/token",
                "sasl.oauthbearer.client.id": "u",
                "sasl.oauthbearer.client.secret": "p4ss",
                "sasl.oauthbearer.scope": "kafka",
            },
        ),
    ],
)
def test_in_librdkafkas_words(given: dict[str, Any], wanted: dict[str, str]) -> None:
    settings = Settings(bootstrap="b:1", **given)
    assert kafka_security(settings) == wanted
    assert client_config(settings).items() >= wanted.items()
    for secret in ("p4ss", "k3y"):
        assert secret not in repr(settings)
        assert secret not in str(settings)


def test_librdkafka_takes_them() -> None:
    for given in (LOGIN, LOGIN | OIDC, LOGIN | {"kafka_sasl_mechanism": "SCRAM-SHA-256"}):
        AdminClient({"bootstrap.servers": "127.0.0.1:1", **kafka_security(Settings(**given))})


def test_the_setting_kafka_wins() -> None:
    settings = Settings(bootstrap="b:1", kafka={"security.protocol": "SASL_PLAINTEXT"}, **LOGIN)
    assert client_config(settings)["security.protocol"] == "SASL_PLAINTEXT"


def test_a_password_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("p4ss word\n")
    settings = Settings(kafka_username="u", kafka_password_file=file)
    assert kafka_security(settings)["sasl.password"] == "p4ss word"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kafka_username": "u"}, "SCRAM-SHA-512 needs the settings kafka_username and kafka_password"),
        ({"kafka_sasl_mechanism": "PLAIN", "kafka_password": "p4ss"}, "PLAIN needs"),
        (LOGIN | {"kafka_password_file": "x"}, "both there; keep one"),
        ({"kafka_username": "u", "kafka_password_file": "/nowhere"}, "cannot be read: No such file"),
        ({"kafka_username": "u", "kafka_password_file": "/dev/null"}, "is empty"),
        ({"kafka_cert_file": "c.pem"}, "needed together"),
        (OIDC, "kafka_oidc_token_url needs the client's id"),
    ],
)
def test_what_does_not_fit_is_a_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(WorkerError, match=said) as refused:
        client_config(Settings(bootstrap="b:1", **given))
    assert "p4ss" not in str(refused.value)


def test_a_file_that_is_no_text_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"\xff")
    with pytest.raises(WorkerError, match="not UTF-8"):
        client_config(Settings(bootstrap="b:1", kafka_username="u", kafka_password_file=file))


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USERNAME", "PASSWORD", "PASSWORD_FILE", "SASL_MECHANISM", "SECURITY_PROTOCOL", "CA_FILE"):
        monkeypatch.setenv(f"DISTRIBUTARY_KAFKA_{name}", "")
    assert kafka_security(Settings()) == {}
