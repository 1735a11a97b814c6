"""The dashboard and the alert rules name metrics that exist, and the rules' own examples hold.

What causes the conditions of the rules in a real system is in tests/integration/test_alerts.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from schemas.metrics import METRICS, PROCESS
from tests.docs import ROOT, tables
from tests.promtool import DEPLOY, PROMETHEUS, alerts, promtool, run

__all__ = ["promtool"]  # a fixture

#: What Prometheus adds to the name of a histogram.
PARTS = ("_bucket", "_sum", "_count")


def queries() -> list[str]:
    """Every expression of the rules and of the dashboards."""
    found = [rule["expr"] for rule in alerts()]
    for file in sorted((DEPLOY / "grafana/dashboards").glob("*.json")):
        found += [target["expr"] for panel in json.loads(file.read_text())["panels"] for target in panel["targets"]]
    return found


def series_of(query: str) -> set[str]:
    """The names of series in a query: what looks like one of ours, or of a process."""
    return set(re.findall(r"\b(?:distributary|process)_\w+", query))


def base(name: str) -> str:
    """The metric that a series belongs to."""
    known = METRICS | {metric.name: metric for metric in PROCESS}
    if name in known:
        return name
    for part in PARTS:
        metric = known.get(name.removesuffix(part))
        if metric is not None and metric.kind == "histogram":
            return metric.name
    raise AssertionError(f"no metric has the series {name}")


def labels_of(query: str) -> set[tuple[str, str]]:
    """(series, label) of what is selected."""
    selectors = re.findall(r"\b((?:distributary|process)_\w+)\{([^}]*)\}", query)
    return {(name, label) for name, inside in selectors for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside)}


def test_every_metric_that_is_named_exists() -> None:
    named = {base(name) for query in queries() for name in series_of(query)}
    for name, label in {pair for query in queries() for pair in labels_of(query)}:
        metric = METRICS.get(base(name))
        assert label in {"job", "instance"} or (metric is not None and label in metric.labels), (name, label)
    for query in queries():
        for label in re.findall(r"by \(([^)]*)\)", query):
            of = {
                label
                for name in series_of(query)
                for label in (METRICS[base(name)].labels if base(name) in METRICS else ())
            }
            assert {one.strip() for one in label.split(",")} <= of | {"le", "job", "instance"}, query
    assert named >= set(METRICS), "the dashboard shows everything there is"


def test_a_name_that_is_wrong_is_noticed() -> None:
    for wrong in ("distributary_event_total", "distributary_events_total_bucket", "process_cpu_total"):
        with pytest.raises(AssertionError, match=wrong):
            base(wrong)
    assert base("distributary_attempt_seconds_bucket") == "distributary_attempt_seconds"


def test_each_alert_says_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["annotations"]["action"].endswith(".")


def test_the_document_has_every_alert() -> None:
    said = [row[0] for row in tables((ROOT / "docs/how-to/watch-it.md").read_text(), "The alerts")]
    assert said == [f"`{rule['alert']}`" for rule in alerts()]


def test_each_alert_fires_in_a_test_and_stays_silent_in_another() -> None:
    cases: dict[bool, set[str]] = {True: set(), False: set()}
    for test in yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]:
        for case in test["alert_rule_test"]:
            cases[bool(case["exp_alerts"])].add(case["alertname"])
    assert cases[True] == cases[False] == {rule["alert"] for rule in alerts()}


def test_promtool_accepts_the_rules_and_they_fire(promtool: str) -> None:
    checked = run(promtool, "check", "rules", "alerts.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = run(promtool, "test", "rules", "alerts_test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_promtool_accepts_the_configuration(promtool: str) -> None:
    checked = run(promtool, "check", "config", "--syntax-only", "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_promtool_reads_the_queries_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    checked = run(promtool, "check", "rules", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout


def test_compose_provisions_prometheus_and_grafana() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = {
        target: ROOT / source
        for name in ("prometheus", "grafana")
        for source, target, _ in (volume.split(":") for volume in services[name]["volumes"])
    }
    assert all(source.is_dir() for source in mounts.values())
    config = yaml.safe_load((mounts["/etc/prometheus"] / "prometheus.yml").read_text())
    assert config["rule_files"] == ["/etc/prometheus/alerts.yml"]
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    for name in found["names"]:
        assert services[name]["environment"]["DISTRIBUTARY_METRICS_PORT"] == str(found["port"])
        assert services[name]["environment"]["DISTRIBUTARY_METRICS_HOST"] == "0.0.0.0"
    provisioning = mounts["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    (port,) = services["prometheus"]["ports"]
    assert source["url"] == f"http://prometheus:{port.rsplit(':', 1)[1]}"
    (provider,) = yaml.safe_load((provisioning / "dashboards/distributary.yml").read_text())["providers"]
    boards = [json.loads(file.read_text()) for file in mounts[provider["options"]["path"]].glob("*.json")]
    assert boards
    for panel in (panel for board in boards for panel in board["panels"]):
        assert panel["datasource"]["uid"] == source["uid"]
