"""Rules and dashboard speak of metrics that exist, and every alert was seen to fire."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import Histogram, MetricWrapperBase

import services.core.telemetry.metrics
import services.critic.metrics
import services.embedder.metrics
import services.gateway.metrics
from deploy.verify.manifests import ROOT

FOLDER = ROOT / "deploy" / "observability"
MODULES = (
    services.core.telemetry.metrics,
    services.critic.metrics,
    services.embedder.metrics,
    services.gateway.metrics,
)
METRICS = {
    metric._name: metric
    for module in MODULES
    for metric in vars(module).values()
    if isinstance(metric, MetricWrapperBase)
}
_SERIES = re.compile(r"\b(mondrian_[a-z_]+?)(_bucket|_count|_sum|_total)?\b(?!:)(?:\{([^}]*)\})?")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return panels


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in dashboard() for target in panel["targets"])


def series() -> list[tuple[str, str, str]]:
    """Returns name, suffix and selector of each series that is asked for."""
    return [match for expression in expressions() for match in _SERIES.findall(expression)]


def test_every_series_is_one_that_a_service_has() -> None:
    found = series()
    assert len(found) > 30
    for name, suffix, selector in found:
        metric = METRICS[name]
        histogram = isinstance(metric, Histogram)
        assert (suffix in ("_bucket", "_count", "_sum")) == histogram, name
        assert (suffix == "_total") == (metric._type == "counter"), name
        asked = dict(re.findall(r'([a-z]+)=~?"([^"]*)"', selector))
        bound = asked.pop("le", None)
        assert asked.keys() <= set(metric._labelnames), name
        if bound is not None:
            assert isinstance(metric, Histogram)
            assert float(bound) in metric._upper_bounds, name


def test_recorded_ratios_are_those_that_are_asked_for() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = {name for expression in expressions() for name in re.findall(r"mondrian:[a-z_0-9:]+", expression)}
    assert asked == recorded


def test_every_alert_says_what_to_do_and_was_seen_to_fire() -> None:
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    for rule in alerts.values():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "action"} == rule["annotations"].keys()
    tests = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", []) if case["exp_alerts"]}
    assert fired == alerts.keys()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_agrees() -> None:
    command = ["promtool", "test", "rules", str(FOLDER / "rules_test.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_scrape_names_the_job_and_the_port_that_pods_have() -> None:
    (job,) = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    assert any(f'job="{job["job_name"]}"' in rule["expr"] for rule in rules())
    deployment = yaml.safe_load((ROOT / "deploy/k8s/base/critic/deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    kept = [entry["regex"] for entry in job["relabel_configs"] if entry.get("action") == "keep"]
    assert kept == [port["name"] for port in container["ports"] if port["name"] == "metrics"]
