"""How clients prove who they are to Kafka: the settings `kafka_*` in librdkafka's words.

Part of the composition root: it reads the file of the password. What is in the setting `kafka` wins over all of it.
"""

from __future__ import annotations

from typing import Any

from streams.settings import Settings

SECRET_BYTES_MAX = 64 << 10


def kafka_security(settings: Settings) -> dict[str, Any]:
    """librdkafka's settings, none for a cluster without security. ValueError with a sentence."""
    password = _password(settings)
    mechanism = settings.kafka_sasl_mechanism or ("SCRAM-SHA-512" if settings.kafka_username else None)
    if mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512") and not (settings.kafka_username and password):
        raise ValueError(f"{mechanism} needs the settings kafka_username and kafka_password (or kafka_password_file)")
    if bool(settings.kafka_cert_file) != bool(settings.kafka_key_file):
        raise ValueError("the settings kafka_cert_file and kafka_key_file are needed together")
    tls = settings.kafka_ca_file or settings.kafka_cert_file
    protocol = settings.kafka_security_protocol or ("sasl_ssl" if mechanism else "ssl" if tls else None)
    given: dict[str, Any] = {
        "security.protocol": protocol and protocol.upper(),
        "sasl.mechanism": mechanism,
        "ssl.ca.location": settings.kafka_ca_file and str(settings.kafka_ca_file),
        "ssl.certificate.location": settings.kafka_cert_file and str(settings.kafka_cert_file),
        "ssl.key.location": settings.kafka_key_file and str(settings.kafka_key_file),
        "ssl.key.password": settings.kafka_key_password and settings.kafka_key_password.get_secret_value(),
    }
    if mechanism != "OAUTHBEARER":
        given |= {"sasl.username": settings.kafka_username, "sasl.password": password}
    elif settings.kafka_oidc_token_url is not None:
        if not (settings.kafka_username and password):
            raise ValueError(
                "kafka_oidc_token_url needs the client's id in kafka_username and its secret in kafka_password"
            )
        given |= {
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.token.endpoint.url": settings.kafka_oidc_token_url,
            "sasl.oauthbearer.client.id": settings.kafka_username,
            "sasl.oauthbearer.client.secret": password,
            "sasl.oauthbearer.scope": settings.kafka_oidc_scope,
        }
    return {name: value for name, value in given.items() if value is not None}


def _password(settings: Settings) -> str | None:
    if settings.kafka_password is not None and settings.kafka_password_file is not None:
        raise ValueError("the settings kafka_password and kafka_password_file are both there; keep one of them")
    if settings.kafka_password is not None:
        return settings.kafka_password.get_secret_value()
    if settings.kafka_password_file is None:
        return None
    try:
        with settings.kafka_password_file.open("rb") as file:
            text = file.read(SECRET_BYTES_MAX).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"the file of the setting kafka_password_file cannot be read: {reason}") from None
    if not text:
        raise ValueError("the file of the setting kafka_password_file is empty")
    return text
