"""The component `mtls`: what it asks of pods and settings, on top of an overlay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.verify.manifests import Object, settings_of
from tests.unit.deploy.conftest import SERVICES, default_port, health_name, settings_class


@pytest.fixture
def secured(with_component: Callable[[str], list[Object]]) -> list[Object]:
    """The objects of overlay `cpu` with the component."""
    return with_component("mtls")


@pytest.mark.parametrize("service", SERVICES)
def test_every_port_asks_for_certificates_and_probes_have_their_own(secured: list[Object], service: str) -> None:
    named = {entry["kind"]: entry for entry in secured if entry["metadata"]["name"] == service}
    pod = named["Deployment"]["spec"]["template"]["spec"]
    environment = settings_of(pod, secured)
    # The settings say where the files are; loading them checks that they fit together.
    fields = settings_class(service).model_fields
    values = {name.removeprefix("MONDRIAN_").lower(): value for name, value in environment.items()}
    own = f"{service}_"
    values |= {name.removeprefix(own): value for name, value in values.items() if name.startswith(own)}
    settings = settings_class(service).load(**{name: value for name, value in values.items() if name in fields})
    assert not settings.allow_plaintext
    assert {settings.tls_certificate, settings.tls_key, settings.tls_client_ca} == {
        Path("/tls/tls.crt"),
        Path("/tls/tls.key"),
        Path("/tls/ca.crt"),
    }
    (container,) = pod["containers"]
    assert {"name": "tls", "mountPath": "/tls", "readOnly": True} in container["volumeMounts"]
    assert {"name": "tls", "secret": {"secretName": f"{service}-tls"}} in pod["volumes"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == settings.health_port
    assert container["readinessProbe"]["grpc"]["service"] == health_name(service)
    assert {"name": "health", "containerPort": settings.health_port} in container["ports"]
    assert settings.port == default_port(service)
    assert named["Service"]["spec"]["ports"][0]["appProtocol"] == "https"


def test_the_gateway_shows_its_certificate_to_the_services(secured: list[Object]) -> None:
    (gateway,) = (e for e in secured if e["kind"] == "Deployment" and e["metadata"]["name"] == "gateway")
    environment = settings_of(gateway["spec"]["template"]["spec"], secured)
    shown = {name: value for name, value in environment.items() if name.startswith("MONDRIAN_GATEWAY_BACKEND_TLS_")}
    assert shown == {
        "MONDRIAN_GATEWAY_BACKEND_TLS_AUTHORITY": "/tls/ca.crt",
        "MONDRIAN_GATEWAY_BACKEND_TLS_CERTIFICATE": "/tls/tls.crt",
        "MONDRIAN_GATEWAY_BACKEND_TLS_KEY": "/tls/tls.key",
    }
