"""The script for a user's own cluster, against a kubectl that answers as a cluster would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

from deploy.verify.manifests import ROOT
from tests.unit.deploy.conftest import SERVICES

SCRIPT = ROOT / "deploy" / "verify" / "on-cluster.sh"
KUBECTL = """#!/bin/bash
shift 2  # --namespace mondrian
echo "kubectl $*" >> "$RECORD"
case "$*" in
  *"get deployment gateway") exit 0 ;;
  "rollout status "*) exit 0 ;;
  "get pods "*) printf '%s\\n' 0 "${RESTARTS:-0}" ;;
  *services.core.probe*) [[ "$*" != *"${UNHEALTHY:-none at all}" ]] ;;
  "get deployment "*) echo "${LIMITS:-{\\"memory\\":\\"2Gi\\"\\}}" ;;
  *device_count*) echo "${CARDS:-1}" ;;
  "port-forward "*) echo "Forwarding from 127.0.0.1:50050 -> 50050"; exec sleep 60 ;;
  *) echo "kubectl stand-in: unexpected $*" >&2; exit 9 ;;
esac
"""
MONDRIAN = '#!/bin/bash\necho "mondrian $*" >> "$RECORD"\nexit "${ANSWER:-0}"\n'

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The file in which the stand-ins write how they were called; they lie beside it."""
    for name, text in (("kubectl", KUBECTL), ("mondrian", MONDRIAN)):
        program = tmp_path / name
        program.write_text(text)
        program.chmod(0o755)
    return tmp_path / "record"


def run(record: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{record.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env={**os.environ, "PATH": path, "RECORD": str(record), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_sound_installation_passes(record: Path) -> None:
    done = run(record)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok: ") == 5
    assert "not checked: an analysis" in done.stdout
    asked = record.read_text()
    for service in SERVICES:
        assert re.search(rf"exec deployment/{service} .*probe 127\.0\.0\.1:\d+ mondrian\.{service}\.v1\.", asked)
        assert re.search(rf"exec deployment/{service} .*probe 127\.0\.0\.1:\d+ liveness", asked)


def test_with_a_photograph_it_analyses_through_the_gateway(record: Path) -> None:
    done = run(record, str(SCRIPT))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("ok: one combined analysis through the gateway\n")
    assert "kubectl port-forward service/gateway 50050:50050" in record.read_text()


def test_the_analysis_names_options_that_the_command_has(record: Path) -> None:
    from services.cli.commands import app

    run(record, str(SCRIPT))
    (call,) = (line for line in record.read_text().splitlines() if line.startswith("mondrian "))
    group: Any = typer.main.get_command(app)
    _, name, *arguments = call.split()
    group.commands[name].make_context(name, arguments)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"RESTARTS": "3"}, "gateway restarted 3 times"),
        ({"UNHEALTHY": "mondrian.critic.v1.CriticService"}, "critic does not answer SERVING for the health name"),
        ({"UNHEALTHY": "50053 liveness"}, "scorer does not answer SERVING for the health name liveness"),
        ({"LIMITS": '{"nvidia.com/gpu":"1"}', "CARDS": "2"}, "embedder claims one GPU or slice and sees 2"),
        ({"ANSWER": "1"}, "the analysis failed"),
    ],
)
def test_a_fault_is_told_and_ends_it(record: Path, environment: dict[str, str], sentence: str) -> None:
    done = run(record, str(SCRIPT), **environment)
    assert done.returncode == 1
    assert f"fault: {sentence}" in done.stderr


def test_a_photograph_that_is_not_there_is_told_before_anything_is_asked(record: Path) -> None:
    done = run(record, "no-such.jpg")
    assert done.returncode == 1
    assert done.stderr == "fault: no-such.jpg cannot be read\n"
    assert not record.exists()
