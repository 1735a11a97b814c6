"""What people and programs are shown: values made JSON, text without control characters, errors as sentences."""

from __future__ import annotations

import datetime
import decimal

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st

from connectors.admin import ClusterError
from schemas.codec import decode, own_schema, parse_schema
from schemas.subscription import Subscription, subscription_from_fields
from streams.cli.output import clean, many
from streams.cli.running import sentence
from streams.cli.subscriptions import shown
from streams.cli.values import iso, readable, subscription_value


@pytest.mark.parametrize(
    ("value", "json"),
    [
        (b'{"a": [1]}', {"a": [1]}),
        (b"{broken", "{broken"),
        (b"17", "17"),  # a response's excerpt stays the text that it was
        (b"\xff\x00", "/wA="),
        ({"t": datetime.datetime(2026, 8, 1, 12, tzinfo=datetime.UTC)}, {"t": "2026-08-01T12:00:00.000Z"}),
        ({"d": decimal.Decimal("1.50")}, {"d": "1.50"}),
        ([2**70, -1, 1.5, True, None], [str(2**70), -1, 1.5, True, None]),
    ],
)
def test_values_become_json(value: object, json: object) -> None:
    assert readable(value) == json
    orjson.dumps(readable(value))


def test_times_are_rfc_3339() -> None:
    assert iso(1_785_585_600_123) == "2026-08-01T12:00:00.123Z"
    assert iso(0) == "-"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    kept = clean(text)
    assert len(kept) == len(text)
    assert kept.isprintable() or not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in kept)
    assert clean("a\x1b[31m\u202eb") == "a·[31m·b"


def test_a_subscription_survives_its_avro() -> None:
    subscription = Subscription(
        id="a",
        url="https://a.example",
        event_types=("order.*", "*"),
        secrets=("whsec_" + "A" * 32,),
        headers={"x": "y"},
    )
    schema = parse_schema(own_schema("subscription.v4"), logical_types=False)
    assert subscription_from_fields(decode(subscription_value(7, subscription), schema)) == subscription


def test_what_is_shown_of_a_subscription_holds_no_secret() -> None:
    subscription = Subscription(
        id="a",
        url="https://a.example",
        event_types=("*",),
        secrets=("whsec_abc", "whsec_def"),
        headers={"authorization": "key"},
    )
    hidden = shown(subscription, reveal=False)
    assert hidden["secrets"] == ["whsec_…", "whsec_…"]
    assert hidden["headers"] == {"authorization": "…"}
    assert shown(subscription, reveal=True)["secrets"] == ("whsec_abc", "whsec_def")
    assert hidden.keys() == {*Subscription.__struct_fields__}


def test_public_keys_are_shown_in_place_of_private_ones() -> None:
    private = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
    secrets = (private, "whsec_abc")
    subscription = Subscription(id="a", url="https://a.example/", event_types=("*",), secrets=secrets)
    hidden = shown(subscription, reveal=False)
    assert hidden["public_keys"] == ["whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="]
    assert private not in str(hidden)
    assert "public_keys" not in shown(subscription, reveal=True)  # which can be put again as it is


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ClusterError("no Kafka answers; check it"), "no Kafka answers; check it"),
        (KafkaException(KafkaError(KafkaError._TIMED_OUT)), "Kafka: Local: Timed out; check the cluster"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), "the system refuses 'x.json': No such file"),
        (ConnectionRefusedError(111, "Connection refused"), "the system refuses: Connection refused"),
        (ZeroDivisionError("division\nby zero"), "ZeroDivisionError: division by zero; this is a defect"),
    ],
)
def test_every_error_is_one_line(error: Exception, said: str) -> None:
    assert sentence(error).startswith(said)
    assert "\n" not in sentence(error)


@pytest.mark.parametrize(("count", "said"), [(0, "0 deliveries"), (1, "1 delivery"), (1_200, "1,200 deliveries")])
def test_one_is_not_many(count: int, said: str) -> None:
    assert many(count, "delivery", "deliveries") == said
    assert many(count, "byte") == said.replace("deliveries", "bytes").replace("delivery", "byte")
