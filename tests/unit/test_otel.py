"""OpenTelemetry's tracer: what is set and what its variables say, a collector that fails, and that off is off."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

import connectors
from connectors import otel
from connectors.memory import ManualClock
from connectors.otel import BATCH_SPANS, WARN_EVERY_S, OtelTracer, asked, why_not
from streams.settings import Settings
from streams.wiring import WorkerError, make_tracer
from tests.helpers import eventually
from tests.otlp import Collector, collecting


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


def end(tracer: OtelTracer, count: int = 1) -> None:
    for _ in range(count):
        tracer.start("x", "internal", None, {}).end()


def made(collector: Collector, clock: ManualClock | None = None) -> OtelTracer:
    return OtelTracer(monotonic=(clock or ManualClock()).monotonic, endpoint=collector.url)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "connectors.otel"]


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_settings_name_the_collector_what_it_is_sent_and_who_sends(collector: Collector) -> None:
    settings = Settings(
        traces=True,
        traces_endpoint=f"{collector.url}/",
        traces_headers={"authorization": "Bearer 1"},
        traces_ratio=1.0,
        worker_id="w1",
    )
    tracer = make_tracer(settings)
    assert tracer is not None
    end(tracer)
    tracer.close(10)
    (span,) = collector.spans
    assert (span.resource["service.name"], span.resource["service.instance.id"]) == ("distributary", "w1")
    assert collector.headers[0]["authorization"] == "Bearer 1"
    assert "Bearer" not in repr(settings)


def test_without_them_the_variables_of_opentelemetry_count(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=blue",
        "OTEL_SERVICE_NAME": "hooks",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
    }.items():
        monkeypatch.setenv(name, text)
    tracer = make_tracer(Settings(traces=True))
    assert tracer is not None
    end(tracer)
    tracer.start("y", "internal", f"00-{'a' * 32}-{'b' * 16}-01", {}).end()
    tracer.close(10)
    (span,) = collector.spans
    assert span.name == "y"
    assert span.resource["service.name"] == "hooks"
    assert span.resource["deployment.environment.name"] == "test"
    assert collector.headers[0]["x-team"] == "blue"


def test_where_the_collector_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(None) == "http://localhost:4318/v1/traces"
    assert asked("https://c.example/otlp/v1/traces") == "https://c.example/otlp/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/base")
    assert asked(None) == "http://c:4318/base/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:4318/as/it/is")
    assert asked(None) == "http://t:4318/as/it/is"
    assert asked("http://own:1") == "http://own:1/v1/traces"


@pytest.mark.parametrize("bad", [{"traces_endpoint": "collector:4318"}, {"traces_ratio": 1.5}])
def test_settings_that_make_no_sense(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**bad)  # type: ignore[arg-type]


# --- off --------------------------------------------------------------------------------------------------------------


def test_off_imports_nothing_of_it() -> None:
    code = (
        "import sys; import streams.app, streams.api_app, streams.cli.root, streams.cli.doctor_checks;"
        "from streams.settings import Settings; from streams.wiring import make_tracer;"
        "assert make_tracer(Settings()) is None;"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'google'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_opentelemetrys_own_switch_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert make_tracer(Settings(traces=True)) is None


def test_a_variable_that_makes_no_sense_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")
    said = "OpenTelemetry does not take one of its variables: OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be .*; correct it"
    with pytest.raises(WorkerError, match=said):
        make_tracer(Settings(traces=True))


def test_without_the_extra_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "connectors.otel")
    monkeypatch.delattr(connectors, "otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    with pytest.raises(WorkerError) as raised:
        make_tracer(Settings(traces=True))
    assert str(raised.value) == (
        "traces need OpenTelemetry, which is not installed; run pip install 'distributary[otel]', or leave the setting"
        " traces out"
    )


# --- a collector that fails -------------------------------------------------------------------------------------------


def test_what_finds_no_place_is_counted_and_nobody_waits(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(otel, "QUEUE_MAX", BATCH_SPANS + 10)
    collector.open.clear()
    tracer = made(collector)
    end(tracer, BATCH_SPANS)
    eventually(lambda: not tracer._queue._spans)  # on their way, with no answer
    end(tracer, BATCH_SPANS + 17)
    assert (tracer.sent, tracer.dropped) == (0, 7)
    collector.open.set()
    tracer.close(10)
    assert (tracer.sent, tracer.dropped) == (2 * BATCH_SPANS + 10, 7)
    assert len(collector.spans) == tracer.sent
    (said,) = warnings(caplog)
    assert said.startswith("7 spans are lost, the collector does not take them (there are more than it takes in time)")


def test_a_collector_that_refuses_costs_a_warning_a_minute(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    collector.status = 400
    tracer = made(collector, clock)
    for number in (1, 2, 3):
        end(tracer, BATCH_SPANS)
        eventually(lambda number=number: tracer.dropped == number * BATCH_SPANS)  # type: ignore[misc]
        eventually(lambda number=number: len(warnings(caplog)) == (1 if number < 3 else 2))  # type: ignore[misc]
        if number == 2:
            clock.advance_ms(int(WARN_EVERY_S * 1_000))
    tracer.close(10)
    assert warnings(caplog) == [
        f"{count} spans are lost, the collector does not take them (it answered 400 Bad Request); deliveries go on"
        for count in (BATCH_SPANS, 2 * BATCH_SPANS)
    ]
    assert {record.name for record in caplog.records if record.levelno >= logging.WARNING} == {"connectors.otel"}


def test_a_stop_does_not_wait_for_it_longer_than_told(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    collector.open.clear()
    tracer = made(collector)
    end(tracer, BATCH_SPANS)
    eventually(lambda: not tracer._queue._spans)
    end(tracer, 5)
    tracer.close(0.05)
    assert tracer.dropped == 5
    assert warnings(caplog)[-1].startswith("5 spans are lost")
    end(tracer)
    assert tracer.dropped == 6


def test_a_stop_ends_its_waiting_to_try_again(collector: Collector) -> None:
    collector.status = 503
    tracer = made(collector)
    end(tracer, BATCH_SPANS)
    eventually(lambda: collector.headers)
    tracer.close(0.01)
    eventually(lambda: not tracer._queue._thread.is_alive(), timeout_s=5)  # it would try for ten
    assert (tracer.sent, tracer.dropped) == (0, BATCH_SPANS)


def test_why_a_collector_does_not_answer(collector: Collector) -> None:
    assert why_not(collector.url, {"x-key": "1"}, 5) == ""
    assert collector.headers[0]["x-key"] == "1"
    collector.status = 401
    assert why_not(collector.url, None, 5) == "it answered 401 Unauthorized"
    collector.open.clear()
    assert why_not(collector.url, None, 0.1) == "it did not answer in time"


def test_nobody_listens() -> None:
    with collecting() as gone:
        url = gone.url
    assert why_not(url, None, 5) == "Connection refused"
