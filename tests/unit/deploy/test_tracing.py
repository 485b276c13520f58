"""The component `tracing`: every service is told where the collector is, and may reach it."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from deploy.verify.manifests import Object, settings_of
from services.core.telemetry import tracing
from tests.unit.deploy.conftest import SERVICES


@pytest.fixture
def traced(with_component: Callable[[str], list[Object]]) -> list[Object]:
    """The objects of overlay `cpu` with the component."""
    return with_component("tracing")


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_may_reach_the_collector_that_it_is_told_of(traced: list[Object], service: str) -> None:
    named = {(entry["kind"], entry["metadata"]["name"]): entry for entry in traced}
    pod = named["Deployment", service]["spec"]["template"]
    environment = settings_of(pod["spec"], traced)
    (name,) = set(environment) & set(tracing.ENDPOINTS)
    collector = urlsplit(environment[name])
    assert collector.hostname is not None
    policy = named["NetworkPolicy", "tracing"]["spec"]
    (chosen,) = policy["podSelector"]["matchExpressions"]
    assert pod["metadata"]["labels"][chosen["key"]] in chosen["values"]
    open_ports = {
        (each["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], port["port"])
        for rule in policy["egress"]
        for each in rule["to"]
        for port in rule["ports"]
    }
    assert (collector.hostname.split(".")[1], collector.port) in open_ports
