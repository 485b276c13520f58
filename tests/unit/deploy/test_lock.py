"""Everything that is installed is pinned, and hashed but for what cannot be."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

from deploy.images.project import requirements
from deploy.verify.manifests import ROOT
from tests.unit.deploy.test_extras import normalized

# Their wheels differ by platform and index: of one version there are CPU builds, and one for each version of CUDA.
UNHASHED = {"torch", "torchvision"}
CONSTRAINTS, HASHES = ROOT / "deploy" / "constraints.txt", ROOT / "deploy" / "hashes.txt"
SCRIPTS = (ROOT / "deploy" / "install.sh", ROOT / "deploy" / "images" / "Dockerfile")


def versions() -> dict[str, str]:
    """Returns the version of every distribution that is pinned, by its normalized name."""
    pinned = (line.split("==") for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines())
    return {normalized(name): version for name, version in pinned}


def hashed() -> dict[str, tuple[str, list[str]]]:
    """Returns version and hashes of every distribution that is hashed, by its normalized name."""
    text = HASHES.read_text(encoding="utf-8").replace("\\\n", " ")
    entries = (line.split() for line in text.splitlines())
    return {normalized(pin.split("==")[0]): (pin.split("==")[1], hashes) for pin, *hashes in entries}


def test_everything_pinned_is_hashed_in_the_same_version_but_torch_and_torchvision() -> None:
    wanted = {name: version for name, version in versions().items() if name not in UNHASHED}
    assert len(wanted) > 100
    assert {name: version for name, (version, _) in hashed().items()} == wanted


def test_every_hash_is_a_sha256() -> None:
    for name, (_, hashes) in hashed().items():
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), name


def test_the_lock_names_no_index() -> None:
    assert "://" not in HASHES.read_text(encoding="utf-8") + CONSTRAINTS.read_text(encoding="utf-8")


def test_everything_required_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = [*requirements(ROOT / "pyproject.toml", "all", "dev", "embedder-cpu"), *project["build-system"]["requires"]]
    names = {normalized(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in lines}
    assert not names - set(versions())


@pytest.mark.parametrize("name", sorted(versions()))
def test_what_is_installed_is_what_is_pinned(name: str) -> None:
    if name == "triton":
        pytest.skip("installed beside a CUDA build of torch alone")
    assert importlib.metadata.version(name).split("+")[0] == versions()[name]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_only_torch_torchvision_and_our_own_folder_are_installed_without_hashes(script: Path) -> None:
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    installs = re.findall(r'(?:pip|"\$\{pip\[@\]\}") install ([^\n;]*)', text)
    assert len(installs) >= 4
    for one in installs:
        assert re.search(r"--require-hashes|\$\{hashed\[@\]\}|torch|TORCH|--no-deps --editable \.", one), one
