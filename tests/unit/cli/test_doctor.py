"""`mondrian doctor`: what it looks at, and what it says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.checks import Finding, Verdict, model, packages, python_version
from services.cli.commands import app
from services.cli.roster import CRITIC, EMBEDDER, SCORER
from services.core.settings import CommonSettings


def test_the_doctor_judges_python() -> None:
    assert python_version((3, 11)).verdict is Verdict.FINE
    assert python_version((3, 10)).verdict is Verdict.MEND
    assert python_version((3, 13)).verdict is Verdict.MEND


def test_the_doctor_compares_with_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "constraints.txt"
    lock.write_text("# a lock\npytest==0.0.1\nnot-installed-anywhere==1.0\npip==0.0.1\n")
    [finding] = [each for each in packages(lock) if each.verdict is Verdict.NOTE]
    assert "pytest" in finding.sentence
    assert "instead of 0.0.1" in finding.sentence
    assert "not-installed-anywhere" not in finding.sentence
    assert "pip" not in finding.sentence
    assert [each.verdict for each in packages(tmp_path / "none")][-1] is Verdict.NOTE


def test_the_doctor_looks_for_models(tmp_path: Path) -> None:
    settings = CommonSettings.load(profile="full", models_dir=tmp_path)
    [finding] = list(model(EMBEDDER, settings))
    assert (finding.verdict, finding.mend) == (Verdict.MEND, "mondrian models pull")
    folder = tmp_path / "ViT-B-32"
    folder.mkdir()
    (folder / "open_clip_model.safetensors").write_bytes(b"x" * 2_000_000)
    [finding] = list(model(EMBEDDER, settings))
    assert "lacks open_clip_config.json" in finding.sentence
    (folder / "open_clip_config.json").write_text("{}")
    [finding] = list(model(EMBEDDER, settings))
    assert (finding.verdict, "2.0 MB" in finding.sentence) == (Verdict.FINE, True)
    assert list(model(SCORER, settings)) == []


def test_the_doctor_looks_for_adapters_where_the_critic_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jane").mkdir()
    (tmp_path / "jane" / "adapter_config.json").write_text("{}")
    monkeypatch.setenv("MONDRIAN_CRITIC_ADAPTERS_DIR", str(tmp_path))
    assert list(model(CRITIC, CommonSettings.load()))[-1].sentence == f"jane, in {tmp_path}."


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.NOTE, 0), (Verdict.MEND, 1)])
def test_the_doctor_ends_with_1_when_something_needs_mending(
    monkeypatch: pytest.MonkeyPatch, verdict: Verdict, code: int
) -> None:
    findings = [Finding("Disk", Verdict.FINE, "Fine."), Finding("Model", verdict, "It is missing.", "fetch it")]
    monkeypatch.setattr("services.cli.doctor.examine", lambda _: iter(findings))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == code
    assert "→ fetch it" in result.stdout
    assert ("1 finding to mend." if code else "Nothing to mend.") in result.stdout
