"""Settings: from `DISTRIBUTARY_*` environment variables, or `distributary.toml` in the working directory.

This file only reads and validates; what a setting does is said here and done elsewhere.
"""

from __future__ import annotations

import socket
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from schemas.credentials import Verification
from schemas.replay import RATE_DEFAULT, RATE_MAX
from schemas.subscription import TENANT_PATTERN
from schemas.topics import Topics
from streams.core.fair import WEIGHT_MAX, WEIGHT_MIN


def _texts(value: object) -> object:
    """The parts of a text with commas, as variables have them; a list as it is, as the file has it."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


#: Several short texts: `a,b` in a variable, `["a", "b"]` in the file.
Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_texts)]

#: Below 1024, all but those of HTTP: nobody's webhooks are received there, and much else listens there.
DENY_PORTS = ("1-79", "81-442", "444-1023")


class Settings(BaseSettings):
    """All settings. An environment variable wins over the file; a command-line option wins over both.

    What may hold credentials is left out of the repr.
    """

    model_config = SettingsConfigDict(
        env_prefix="DISTRIBUTARY_", toml_file="distributary.toml", extra="forbid", frozen=True
    )

    bootstrap: str | None = Field(default=None, description="Kafka's bootstrap servers, as host:9092,host:9092")
    prefix: str = Field(
        default="", pattern=r"^[a-zA-Z0-9._-]{0,100}$", description="put before every topic and group name"
    )
    partitions: int = Field(default=8, ge=1, le=1000, description="of every partitioned topic, when topics are created")
    replication_factor: int = Field(
        default=-1, ge=-1, description="when topics are created; -1 for the cluster's default"
    )
    kafka: dict[str, Any] = Field(
        default={}, repr=False, description="further librdkafka settings for every client, as JSON (security, timeouts)"
    )
    kafka_security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] | None = Field(
        default=None, description="default: sasl_ssl with a user name or a mechanism, ssl with a file of TLS"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        default=None, description="default: SCRAM-SHA-512 with a user name"
    )
    kafka_username: str | None = Field(default=None, description="this process's user, or its OIDC client id")
    kafka_password: SecretStr | None = Field(default=None, description="its password, or OIDC client secret")
    kafka_password_file: Path | None = Field(default=None, description="a file with nothing but that")
    kafka_ca_file: Path | None = Field(default=None, description="PEM; default: what the system trusts")
    kafka_cert_file: Path | None = Field(default=None, description="PEM: this client's certificate chain")
    kafka_key_file: Path | None = Field(default=None, description="PEM: its private key")
    kafka_key_password: SecretStr | None = Field(default=None, description="of that, where it is encrypted")
    kafka_oidc_token_url: str | None = Field(
        default=None, description="where OAUTHBEARER gets tokens by client credentials"
    )
    kafka_oidc_scope: str | None = Field(default=None, description="asked for with them")
    group_protocol: Literal["consumer", "classic"] | None = Field(default=None, description="default: ask the brokers")

    registry_url: str | None = Field(default=None, description="a Confluent-compatible schema registry")
    registry_auth: str | None = Field(default=None, repr=False, description="user:password for it")
    registry_conf: dict[str, Any] = Field(
        default={},
        repr=False,
        description="further settings of confluent-kafka's registry client, as JSON (ssl.ca.location, proxy)",
    )
    registry_topic: str = Field(
        default="_schemas",
        pattern=r"^[a-zA-Z0-9._-]{1,200}$",
        description="where `distributary registry` keeps schemas",
    )
    registry_users: str | None = Field(
        default=None,
        pattern=r"^[^:]+:.+$",
        repr=False,
        description="user:password that `distributary registry` asks for; default: it asks nobody",
    )
    schemas: Path | None = Field(
        default=None, description="a folder of <subject>.v<n>.avsc, used when there is no registry_url"
    )

    secret_keys: dict[str, str] = Field(
        default={},
        repr=False,
        description='keys that secrets are sealed with, as JSON: {"<id>": "<base64 of 32 bytes>"}; the first seals',
    )
    secret_keys_file: Path | None = Field(
        default=None, description="the same as a file of <id>:<base64> lines; it is read again when it changes"
    )

    worker_id: str | None = Field(
        default=None,
        pattern=r"^[a-zA-Z0-9._-]{1,100}$",
        description="stable and unique per worker, as a pod's name: a restart ends what its predecessor left open",
    )
    allow_private_networks: bool = Field(default=False, description="deliver to loopback and private addresses too")
    allow_http: bool = Field(
        default=False,
        description="deliver to public addresses without TLS too (http://); never needed for private ones",
    )
    allow_networks: Texts = Field(default=(), description="networks (CIDR) that deliveries may go to in any case")
    deny_networks: Texts = Field(default=(), description="networks (CIDR) that deliveries never go to")
    deny_ports: Texts = Field(default=DENY_PORTS, description="ports that deliveries never go to: 25, 1-79")
    own_listeners: Texts = Field(
        default=(), description="host:port or *:port of this system that no endpoint may be at; Kafka's are known"
    )
    webhook_origin: str = Field(
        default="distributary",
        pattern=r"^[a-zA-Z0-9.-]{1,253}$",
        description="this system's DNS name, for endpoints that are asked whether they want its webhooks",
    )
    api_verification: Verification = Field(
        default="challenge", description="how the API verifies endpoints whose subscription does not say"
    )
    proxy: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/]+/?$",
        repr=False,
        description="deliver through this HTTP proxy, as http://proxy:3128 (with the aiohttp sender)",
    )
    operator_tenant: str = Field(
        default="operator",
        pattern=rf"^{TENANT_PATTERN.pattern}$",
        description="the tenant whose subscriptions hear of operations (operation.circuit.opened, ...)",
    )
    operations_window_s: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="dead letters of a subscription, and quarantined records, are told of once in so long",
    )
    guarantee: Literal["exactly_once", "at_least_once"] = Field(
        default="exactly_once",
        description="at_least_once: no transactions, lower latency, records may double after a crash",
    )
    in_flight_max: int = Field(default=1_024, ge=1, le=65_536, description="POSTs under way in one worker")
    origin_rate_max: float = Field(
        default=0.0,
        ge=0,
        le=1_000_000,
        description="POSTs a second from one worker to one scheme, host and port; 0: no limit",
    )
    circuit_results_min: int = Field(
        default=10, ge=0, description="results within half a minute before a circuit may open; 0: no circuits"
    )
    tenant_weights: dict[str, Annotated[float, Field(ge=WEIGHT_MIN, le=WEIGHT_MAX)]] = Field(
        default={}, description='shares of tenants when a worker is busy, as JSON: {"acme": 4}; 1 for all others'
    )
    drain_s: float = Field(
        default=20.0, ge=0, le=600, description="how long a stop or rebalance waits for POSTs under way"
    )
    ingest_window_s: float = Field(
        default=86_400.0, ge=60, le=2_592_000, description="how long the API remembers what was published"
    )
    ingest_ids_max: int = Field(
        default=500_000, ge=1_000, le=100_000_000, description="how many ids and keys it remembers of that"
    )
    ingest_wait_s: float = Field(
        default=10.0, gt=0, le=600, description="how long a request waits for Kafka to take its events"
    )
    unknown_event_types: Literal["allow", "refuse"] = Field(
        default="allow", description="of events that the API is given: whether their type must be described"
    )
    api_rate: float = Field(
        default=100.0, ge=0, le=1_000_000, description="calls a second of one API key to one API process; 0: no limit"
    )
    auth_failures_per_minute: int = Field(
        default=60, ge=1, le=1_000_000, description="API keys from one address that may be wrong, a minute and at once"
    )
    portal_secret: str | None = Field(
        default=None,
        repr=False,
        description="signs portal links: 32 characters or more; several, newest first, with commas between them",
    )
    portal_url: str | None = Field(
        default=None, pattern=r"^https?://[^#]+$", description="your portal's page, which portal links lead to"
    )
    api_burst: int = Field(default=200, ge=1, le=1_000_000, description="calls of one API key at once")
    replay_rate_max: float = Field(
        default=1_000.0,
        ge=RATE_DEFAULT,
        le=RATE_MAX,
        description="deliveries a second that a tenant's key may ask for in a replay; an operator's may exceed it",
    )
    api_request_s: float = Field(default=30.0, gt=0, le=600, description="what one request to the API may take in all")
    public_url: str = Field(
        default="",
        pattern=r"^(https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?)?$",
        description="what others call the API by, as https://hooks.example.com; some providers sign it",
    )
    trusted_proxies: Texts = Field(
        default=(), description="networks (CIDR) of proxies before the API, whose forwarding headers are believed"
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="where /metrics, /livez and /readyz answer; 0 takes a free port; default: nowhere, at no cost",
    )
    metrics_host: str = Field(
        default="127.0.0.1", min_length=1, description="the address for them; they ask nobody who they are"
    )
    metrics_subscriptions_max: int = Field(
        default=50,
        ge=0,
        le=10_000,
        description="subscriptions with metrics of their own: those that are furthest behind",
    )
    traces: bool = Field(
        default=False, description="spans of events and attempts, by OTLP over HTTP; needs the extra `otel`"
    )
    traces_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^@?#]+$",
        description="the collector, as http://collector:4318; default: what OTEL_EXPORTER_OTLP_ENDPOINT says",
    )
    traces_headers: dict[str, str] = Field(
        default={}, repr=False, description='sent to it, as JSON: {"authorization": "Bearer …"}'
    )
    traces_ratio: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the part of events without a trace that get one; default: what OTEL_TRACES_SAMPLER says, or all",
    )
    history: str | None = Field(
        default=None,
        repr=False,
        description="the database of attempts: sqlite:///file, sqlite:////folder/file, postgresql://user@host/database",
    )
    history_days: float = Field(default=30.0, gt=0, le=36_500, description="how long attempts are kept in it")
    history_attempts_max: int = Field(
        default=20_000_000, ge=1, description="how many attempts are kept in it, of half a KiB each"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "text"] = Field(
        default="text", description="of log lines; auto: text in a terminal, JSON elsewhere"
    )
    log_attempts: bool = Field(default=False, description="one log line for each attempt")

    @field_validator(
        *("kafka_security_protocol", "kafka_sasl_mechanism", "kafka_username", "kafka_password"),
        *("kafka_password_file", "kafka_ca_file", "kafka_cert_file", "kafka_key_file", "kafka_key_password"),
        *("kafka_oidc_token_url", "kafka_oidc_scope"),
        *("bootstrap", "registry_url", "registry_users", "schemas", "secret_keys_file", "proxy"),
        *("portal_secret", "portal_url", "metrics_port", "history", "traces_endpoint", "traces_ratio"),
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        """An empty variable, as compose files leave it, is one that is not set."""
        return None if value == "" else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))

    @property
    def topics(self) -> Topics:
        """The topic table under these settings."""
        return Topics(prefix=self.prefix, partitions=self.partitions)

    def group(self, role: Literal["fan-out", "delivery", "replay"]) -> str:
        """The consumer group of a role."""
        return f"{self.prefix}distributary.{role}"

    @property
    def worker_name(self) -> str:
        """For transactional ids: `worker_id`, or else something unique that no restart repeats."""
        return self.worker_id or f"{socket.gethostname()}.{uuid.uuid4().hex[:12]}"
