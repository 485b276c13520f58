"""The compose files promise the same as the manifests, for one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.verify.manifests import ROOT, pod_specs, written
from tests.unit.deploy.conftest import (
    K8S,
    MODEL_SERVICES,
    SERVICES,
    default_port,
    health_name,
    known_variables,
    load_with,
    project_version,
)

COMPOSE = ROOT / "deploy" / "compose"
PRECOMPUTE = ("precompute-embedder", "precompute-scorer")


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((COMPOSE / name).read_text(encoding="utf-8"))
    return document


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    return read("compose.yaml")


@pytest.fixture(scope="module")
def gpu() -> dict[str, Any]:
    return read("compose.gpu.yaml")


def test_old_compose_reads_it(base: dict[str, Any], gpu: dict[str, Any]) -> None:
    # docker-compose 1.29, which Debian has, refuses a top-level name.
    assert "name" not in base
    assert "name" not in gpu


def test_only_the_gateway_is_reached_and_only_from_this_machine(base: dict[str, Any]) -> None:
    port = default_port("gateway")
    published = {name: entry["ports"] for name, entry in base["services"].items() if "ports" in entry}
    assert published == {"gateway": [f"127.0.0.1:{port}:{port}"]}
    assert base["networks"]["inside"] == {"internal": True}
    for service in MODEL_SERVICES:
        assert base["services"][service]["networks"] == ["inside"]


@pytest.mark.parametrize("name", [*SERVICES, *PRECOMPUTE])
def test_every_container_is_confined(base: dict[str, Any], name: str) -> None:
    entry = base["services"][name]
    assert entry["read_only"] is True
    assert entry["cap_drop"] == ["ALL"]
    assert entry["security_opt"] == ["no-new-privileges:true"]
    assert entry["user"] == "10001:10001"
    assert any(mount.startswith("/tmp:") for mount in entry["tmpfs"])
    assert not {"privileged", "cap_add", "devices", "pid"} & entry.keys()


@pytest.mark.parametrize("service", SERVICES)
def test_health_is_asked_by_name(base: dict[str, Any], service: str) -> None:
    asked = base["services"][service]["healthcheck"]["test"]
    address = f"127.0.0.1:{default_port(service)}"
    assert asked == ["CMD", "python", "-m", "services.core.probe", address, health_name(service)]


@pytest.mark.parametrize("service", SERVICES)
def test_settings_exist_and_load(
    base: dict[str, Any], gpu: dict[str, Any], service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = base["services"][service]["environment"]
    on_gpu = plain | gpu["services"].get(service, {}).get("environment", {})
    for environment in (plain, on_gpu):
        assert environment.keys() <= known_variables(service)
        settings = load_with(service, environment, monkeypatch, tmp_path)
        assert settings.port == default_port(service)
        assert settings.host == "0.0.0.0"
        grace = int(base["services"][service]["stop_grace_period"].removesuffix("s"))
        assert grace > settings.lame_duck_s + settings.drain_s


@pytest.mark.parametrize("name", PRECOMPUTE)
def test_precompute_is_one_shot_and_the_only_writer(base: dict[str, Any], gpu: dict[str, Any], name: str) -> None:
    entry = base["services"][name]
    service = name.removeprefix("precompute-")
    assert entry["profiles"] == ["precompute"]
    assert entry["restart"] == "no"
    assert entry["network_mode"] == "none"
    assert entry["entrypoint"] == ["python", "-m", f"services.{service}.precompute"]
    assert entry["image"] == base["services"][service]["image"]
    assert gpu["services"][name]["image"] == gpu["services"][service]["image"]
    assert "releases:/var/lib/mondrian" in entry["volumes"]
    assert base["services"][service]["volumes"] == ["releases:/var/lib/mondrian:ro"]
    environment = entry["environment"] | gpu["services"][name]["environment"]
    assert environment.keys() <= known_variables(service)


def test_gateway_names_its_backends(base: dict[str, Any]) -> None:
    environment = base["services"]["gateway"]["environment"]
    for service in MODEL_SERVICES:
        assert environment[f"MONDRIAN_GATEWAY_{service.upper()}"] == f"dns:///{service}:{default_port(service)}"


def test_each_model_service_has_a_gpu_of_its_own(gpu: dict[str, Any]) -> None:
    assert "gateway" not in gpu["services"]
    cards = []
    for service in MODEL_SERVICES:
        (device,) = gpu["services"][service]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        (card,) = device["device_ids"]
        cards.append(card)
        assert gpu["services"][service]["environment"][f"MONDRIAN_{service.upper()}_DEVICE"] == "cuda"
    assert cards == ["${EMBEDDER_GPU:-0}", "${CRITIC_GPU:-1}", "${SCORER_GPU:-2}"]


def test_images_are_those_of_the_manifests(base: dict[str, Any]) -> None:
    in_manifests = {name: pod["containers"][0]["image"] for name, pod in pod_specs(written(K8S / "base"))}
    for service in SERVICES:
        image = base["services"][service]["image"]
        assert image.removesuffix("-mini") == in_manifests[service] == f"mondrian/{service}:{project_version()}"
        assert base["services"][service]["build"]["args"]["SERVICE"] == service
        assert base["services"][service]["build"]["target"] == ("mini" if image.endswith("-mini") else "service")
