"""The Dockerfile's promises, and the two scripts that it copies."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.images.project import requirements, write_metadata
from deploy.verify.manifests import ROOT
from services.cli.roster import MALLOC
from tests.unit.deploy.conftest import SERVICES, project_version

IMAGES = ROOT / "deploy" / "images"
MODEL_LIBRARIES = ("torch", "torchvision", "transformers", "peft", "open_clip_torch", "hnswlib")


def stages() -> dict[str, list[tuple[str, str]]]:
    """Returns the Dockerfile's stages: name -> (instruction, arguments), continued lines joined."""
    text = (IMAGES / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found: dict[str, list[tuple[str, str]]] = {"": []}
    current = found[""]
    for line in lines.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, _, arguments = line.strip().partition(" ")
        if instruction == "FROM":
            current = found[arguments.split(" AS ")[1]] = []
        current.append((instruction, re.sub(r"\s+", " ", arguments).strip()))
    return found


def test_final_stages_compile_and_install_nothing() -> None:
    for name in ("service", "mini"):
        text = " ".join(f"{instruction} {arguments}" for instruction, arguments in stages()[name])
        assert not re.search(r"\b(apt-get|pip|g\+\+|gcc)\b", text), name


def test_images_run_as_a_numeric_user_without_a_shell() -> None:
    service = dict(stages()["service"])
    assert service["USER"] == "10001:10001"
    assert service["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(service["ENTRYPOINT"]) == ["python", "/app/serve.py"]
    # Nothing after it takes the user or the entry point back.
    assert {instruction for instruction, _ in stages()["mini"]} == {"FROM", "COPY"}


def test_memory_is_kept_between_requests() -> None:
    environment = dict(stages()["service"])["ENV"]
    for setting in (f"{name}={value}" for name, value in MALLOC.items()):
        assert setting in environment.split()


def test_compose_and_manifests_start_our_images_and_leave_their_malloc_settings_alone() -> None:
    for folder in ("compose", "k8s"):
        text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "deploy" / folder).rglob("*.yaml"))
        assert "MALLOC" not in text
        images = re.findall(r"^\s*(?:- )?image: (\S+)", text, re.MULTILINE)
        assert images
        assert all(image.startswith("mondrian/") for image in images)


def test_hnswlib_is_not_built_for_the_building_machine() -> None:
    assert "HNSWLIB_NO_NATIVE=1" in dict(stages()["build"])["ENV"].split()


def test_no_registry_is_named() -> None:
    for path in (ROOT / "deploy" / "images").iterdir():
        if path.is_file():
            assert not re.search(r"https?://|\.io/|\.org/|\.com/", path.read_text(encoding="utf-8")), path


def test_what_is_copied_passes_dockerignore() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignore
    allowed = [line[1:] for line in ignore if line.startswith("!")]
    copied = [
        source
        for stage in stages().values()
        for instruction, arguments in stage
        if instruction == "COPY" and not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert any(source == entry or source.startswith(f"{entry}/") for entry in allowed), source


def test_gateway_gets_no_model_library() -> None:
    names = {re.split(r"[><=\[]", line)[0] for line in requirements(ROOT / "pyproject.toml", "gateway")}
    assert "grpcio" in names
    assert not names & set(MODEL_LIBRARIES)


@pytest.mark.parametrize("service", [*SERVICES, "cli"])
def test_every_service_has_an_extra(service: str) -> None:
    assert any(line.startswith("grpcio>=") for line in requirements(ROOT / "pyproject.toml", service))


def test_unknown_service_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(SystemExit, match=r"no service 'painter': SERVICE is one of .*embedder"):
        requirements(ROOT / "pyproject.toml", "painter")


def test_a_further_extra_is_added() -> None:
    plain = requirements(ROOT / "pyproject.toml", "embedder")
    added = set(requirements(ROOT / "pyproject.toml", "embedder", "embedder-cpu")) - set(plain)
    assert [re.split(r"[><=]", line)[0] for line in added] == ["openvino"]
    with pytest.raises(SystemExit, match="no service 'nothing'"):
        requirements(ROOT / "pyproject.toml", "embedder", "nothing")


def test_metadata_tells_the_version(tmp_path: Path) -> None:
    write_metadata(ROOT / "pyproject.toml", tmp_path)
    (found,) = importlib.metadata.distributions(name="mondrian", path=[str(tmp_path)])
    assert found.version == project_version()


def serve(environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MONDRIAN_")}
    return subprocess.run(
        [sys.executable, str(IMAGES / "serve.py"), "one", "two"],
        env={**clean, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_entry_point_becomes_the_service(tmp_path: Path) -> None:
    package = tmp_path / "services" / "echo"
    package.mkdir(parents=True)
    # A regular package, or an installed `services` would be found before it.
    (package.parent / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys\nprint(__name__, sys.argv[1:])\nsys.exit(7)\n")
    done = serve({"MONDRIAN_SERVICE": "echo"}, tmp_path)
    assert done.stdout == "__main__ ['one', 'two']\n"
    assert done.returncode == 7


def test_entry_point_without_a_service_says_what_to_do(tmp_path: Path) -> None:
    done = serve({}, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("MONDRIAN_SERVICE is not set: build the image with --build-arg SERVICE=")
    assert "Traceback" not in done.stderr
