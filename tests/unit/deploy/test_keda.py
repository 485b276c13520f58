"""The component `keda`: every service is scaled by a metric that it has, before its calls have to wait."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from deploy.verify.manifests import ROOT, Object, settings_of
from services.core.telemetry.metrics import RPC_IN_FLIGHT
from tests.unit.deploy.conftest import SERVICES, settings_class


@pytest.fixture
def scaled(with_component: Callable[[str], list[Object]]) -> list[Object]:
    """The objects of overlay `cpu` with the component."""
    return with_component("keda")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_scaled_before_its_calls_wait(scaled: list[Object], service: str) -> None:
    named = {(entry["kind"], entry["metadata"]["name"]): entry for entry in scaled}
    deployment = named["Deployment", service]
    spec = named["ScaledObject", service]["spec"]
    assert spec["scaleTargetRef"]["name"] == service
    assert "replicas" not in deployment["spec"]
    assert 1 < spec["minReplicaCount"] < spec["maxReplicaCount"]
    # One that is asked to leave finishes what it has, however long that takes: see terminationGracePeriodSeconds.
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 600
    (trigger,) = spec["triggers"]
    assert trigger["metadata"]["query"] == f'sum({RPC_IN_FLIGHT._name}{{service="{service}"}})'
    environment = settings_of(deployment["spec"]["template"]["spec"], scaled)
    bound = "max_in_flight" if service == "gateway" else "max_batch"
    default = settings_class(service).model_fields[bound].default
    at_once = int(environment.get(f"MONDRIAN_{service.upper()}_{bound.upper()}", default))
    assert 0.65 < int(trigger["metadata"]["threshold"]) / at_once < 0.8


def test_the_scrape_names_the_service_of_a_pod() -> None:
    (job,) = yaml.safe_load((ROOT / "deploy/observability/prometheus.yaml").read_text())["scrape_configs"]
    (labelled,) = [rule for rule in job["relabel_configs"] if rule.get("target_label") == "service"]
    assert labelled["source_labels"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_name"]
