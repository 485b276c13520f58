"""The Kubernetes manifests as objects, rendered by the kustomize that is installed, or read as they are written."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""

Object = dict[str, Any]
"""One Kubernetes object as parsed from YAML."""


class RenderError(Exception):
    """kustomize refused a folder; the message is what it said."""


def kustomize_command() -> list[str] | None:
    """Returns the command that renders a folder (kubectl's own kustomize, else the one apart); None without either."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return None


def applied_folders(root: Path = ROOT) -> list[Path]:
    """Returns the folders that a person applies: every overlay and every job, sorted."""
    k8s = root / "deploy" / "k8s"
    return sorted(path.parent for group in ("overlays", "jobs") for path in k8s.glob(f"{group}/*/kustomization.yaml"))


def render(folder: Path) -> list[Object]:
    """Returns the objects of a kustomize folder, in its order.

    Raises:
        RenderError: the folder does not render, or no kustomize is installed.
    """
    command = kustomize_command()
    if command is None:
        raise RenderError("Neither kubectl nor kustomize is installed.")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RenderError(done.stderr.strip())
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def written(folder: Path) -> list[Object]:
    """Returns the objects in a folder as they are written: its YAML files, and the config maps of its generators.

    What overlays change is not applied, and generated names have no hash.
    """
    return [entry for path in sorted(folder.rglob("*.yaml")) for entry in _objects_in(path)]


def _objects_in(path: Path) -> Iterator[Object]:
    documents = [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]
    if path.name != "kustomization.yaml":
        yield from documents
        return
    for document in documents:
        for generator in document.get("configMapGenerator", []):
            pairs = (literal.split("=", 1) for literal in generator["literals"])
            yield {"kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": dict(pairs)}


def pod_specs(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yields the name and the pod spec of every Deployment and Job."""
    for entry in objects:
        if entry["kind"] in ("Deployment", "Job"):
            yield entry["metadata"]["name"], entry["spec"]["template"]["spec"]


def containers(pod: Object) -> list[Object]:
    """Returns every container of a pod spec, the init containers first."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def settings_of(pod: Object, objects: list[Object]) -> dict[str, str]:
    """Returns the environment that the manifests give a pod's containers: its config maps in order, then `env`.

    Raises:
        KeyError: a config map that the pod names is not among the objects.
    """
    maps = {entry["metadata"]["name"]: entry.get("data", {}) for entry in objects if entry["kind"] == "ConfigMap"}
    found: dict[str, str] = {}
    for container in containers(pod):
        for source in container.get("envFrom", []):
            found |= maps[source["configMapRef"]["name"]]
        found |= {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}
    return found
