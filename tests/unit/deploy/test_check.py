"""The offline check: what is there passes, a fault is found, an absent tool is named and is no fault."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploy.verify import check
from deploy.verify.manifests import ROOT, kustomize_command


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the deployment files that a test may damage."""
    for name in ("k8s", "compose", "images", "verify"):
        shutil.copytree(ROOT / "deploy" / name, tmp_path / "deploy" / name)
    return tmp_path


def test_without_tools_nothing_is_checked_and_each_is_named(
    copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    findings = list(check.check(copy))
    assert {finding.outcome for finding in findings} == {"not checked"}
    said = "\n".join(finding.sentence for finding in findings)
    for tool in ("kubectl", "kustomize", "docker-compose", "hadolint", "bash"):
        assert tool in said


def test_absent_tools_are_no_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check.main() == 0
    assert capsys.readouterr().out.startswith("not checked: ")


@pytest.mark.skipif(kustomize_command() is None, reason="neither kubectl nor kustomize is installed")
def test_an_overlay_that_does_not_render_is_a_fault(copy: Path) -> None:
    (copy / "deploy" / "k8s" / "base" / "volumes.yaml").unlink()
    shutil.rmtree(copy / "deploy" / "k8s" / "jobs")
    outcomes = [finding.outcome for finding in check.check_manifests(copy)]
    assert outcomes[:3] == ["fault", "fault", "fault"]


@pytest.mark.skipif(kustomize_command() is None, reason="neither kubectl nor kustomize is installed")
def test_a_field_that_kubernetes_does_not_know_is_a_fault(copy: Path) -> None:
    pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    shutil.rmtree(copy / "deploy" / "k8s" / "overlays")
    job = copy / "deploy" / "k8s" / "jobs" / "model-pull" / "job.yaml"
    job.write_text(job.read_text().replace("backoffLimit", "backofLimit"))
    faults = [finding for finding in check.check_manifests(copy) if finding.outcome == "fault"]
    assert len(faults) == 1
    assert "Job model-pull" in faults[0].sentence
    assert "backofLimit" in faults[0].sentence


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_a_script_that_does_not_parse_is_a_fault(copy: Path) -> None:
    (copy / "deploy" / "verify" / "on-cluster.sh").write_text("if true; then\n")
    faults = [finding for finding in check.check_scripts(copy) if finding.outcome == "fault"]
    assert len(faults) == 1
    assert "on-cluster.sh" in faults[0].sentence
