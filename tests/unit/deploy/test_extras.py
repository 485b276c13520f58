"""Each image installs one extra, so each service has to import nothing else."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from deploy.images.project import requirements
from deploy.verify.manifests import ROOT
from tests.unit.deploy.conftest import SERVICES

# Model services alone call what imports these in core, and only when they do.
LAZY_IN_CORE = {"torch", "torchvision", "open_clip"}
CALLED = {"embedder": LAZY_IN_CORE, "scorer": LAZY_IN_CORE, "critic": {"torch"}}
OPTIONAL = {"embedder": ("embedder-cpu",)}
OWN = {"services", "mondrian", "inference", "deploy"}


def imported(folder: Path) -> set[str]:
    """Returns the top-level names of every module that the code below `folder` imports, anywhere in it."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
    return found - OWN - sys.stdlib_module_names


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_with(service: str) -> set[str]:
    """Returns the distributions that an image of `service` has: its requirements, and what those require in turn."""
    found: set[str] = set()
    waiting = [
        normalized(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in requirements(ROOT / "pyproject.toml", service)
    ]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [normalized(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in required if "extra ==" not in line]
    return found


@pytest.fixture(scope="module")
def distributions() -> dict[str, set[str]]:
    """Which distributions bring a top-level name."""
    found = importlib.metadata.packages_distributions()
    return {name: {normalized(one) for one in brought_by} for name, brought_by in found.items()}


@pytest.mark.parametrize("service", [*SERVICES, "cli"])
def test_an_image_has_everything_that_its_service_imports(service: str, distributions: dict[str, set[str]]) -> None:
    # What an extra of its own brings is imported where a setting asks for it.
    there = installed_with(service).union(*(installed_with(extra) for extra in OPTIONAL.get(service, ())))
    names = imported(ROOT / "services" / service) | (imported(ROOT / "services" / "core") - LAZY_IN_CORE)
    names |= CALLED.get(service, set())
    missing = {name for name in names if not there & distributions.get(name, {name})}
    assert names
    assert not missing, f"extra {service!r} of pyproject.toml does not bring {sorted(missing)}"
