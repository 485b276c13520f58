"""The deployment files as the tests read them, and the settings that they may name."""

from __future__ import annotations

import importlib
import inspect
import os
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from deploy.verify.manifests import ROOT, Object, kustomize_command, render, written
from services.core.settings import COMMON_PREFIX, ServiceSettings

K8S = ROOT / "deploy" / "k8s"
SERVICES = ("gateway", "embedder", "critic", "scorer")
MODEL_SERVICES = ("embedder", "critic", "scorer")


@cache
def settings_class(service: str) -> type[ServiceSettings]:
    """Returns the settings class of a service."""
    prefix = f"{COMMON_PREFIX}{service.upper()}_"
    module = importlib.import_module(f"services.{service}.settings")
    found = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, ServiceSettings) and member.prefix() == prefix
    ]
    assert len(found) == 1, f"services.{service}.settings has to have one settings class that reads {prefix}"
    return found[0]


def default_port(service: str) -> int:
    """Returns the port that a service listens on unless told otherwise."""
    port = settings_class(service).model_fields["port"].default
    assert isinstance(port, int)
    return port


def known_variables(service: str) -> set[str]:
    """Returns every environment variable that a service reads, under its own prefix and the common one."""
    fields = settings_class(service).model_fields
    own = f"{COMMON_PREFIX}{service.upper()}_"
    return {f"{prefix}{name.upper()}" for prefix in (own, COMMON_PREFIX) for name in fields}


def health_name(service: str) -> str:
    """Returns the full gRPC name of a service, under which it reports its health."""
    module = importlib.import_module(f"mondrian.{service}.v1.{service}_pb2")
    return str(module.DESCRIPTOR.services_by_name[f"{service.capitalize()}Service"].full_name)


def project_version() -> str:
    """Returns the version in pyproject.toml."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def load_with(
    service: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> ServiceSettings:
    """Returns a service's settings as its process reads them from `environment` and nothing else."""
    for name in list(os.environ):
        if name.startswith(COMMON_PREFIX):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    return settings_class(service).load()


@cache
def _rendered(folder: Path) -> list[Object]:
    return render(folder)


@pytest.fixture(scope="session")
def rendered() -> Callable[[str], list[Object]]:
    """Renders a folder below deploy/k8s; skips, saying so, where no kustomize is installed."""
    if kustomize_command() is None:
        pytest.skip("neither kubectl nor kustomize is installed, so overlays cannot be rendered")
    return lambda name: _rendered(K8S / name)


@pytest.fixture(scope="session", params=["base as written", "overlays/cpu", "overlays/gpu", "overlays/gpu-mig"])
def manifests(request: pytest.FixtureRequest) -> list[Object]:
    """The objects of the base as written, which needs no tool, and of every overlay where one is there to render it."""
    if request.param == "base as written":
        return written(K8S / "base")
    render_folder: Callable[[str], list[Object]] = request.getfixturevalue("rendered")
    return render_folder(request.param)


@pytest.fixture
def with_component(rendered: Callable[[str], list[Object]], tmp_path: Path) -> Callable[[str], list[Object]]:
    """Returns the objects of overlay `cpu` with a component of `deploy/k8s/components`, by its name."""

    def combine(component: str) -> list[Object]:
        lines = [
            "resources:",
            f"  - {os.path.relpath(K8S / 'overlays/cpu', tmp_path)}",
            "components:",
            f"  - {os.path.relpath(K8S / 'components' / component, tmp_path)}",
        ]
        (tmp_path / "kustomization.yaml").write_text("\n".join(lines))
        return render(tmp_path)

    return combine
