"""`mondrian models`: fetched from the hub, or said what to copy by hand. The hub is a fake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.commands import app
from services.cli.models import PUBLISHED, Weights, fault_of


def test_only_safetensors_are_fetched() -> None:
    for weights in PUBLISHED:
        assert not any(pattern.endswith((".bin", ".pt", ".pth", ".pkl", "*")) for pattern in weights.wanted)


class Hub:
    """Stands for the hub's client: fetches files into the folder, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None, complete: bool = True) -> None:
        self.calls: list[dict[str, Any]] = []
        self._error, self._complete = error, complete
        monkeypatch.setattr("huggingface_hub.snapshot_download", self)

    def __call__(self, repository: str, *, local_dir: Path, **options: Any) -> None:
        self.calls.append({"repository": repository, **options})
        if self._error is not None:
            raise self._error
        local_dir.mkdir(parents=True, exist_ok=True)
        weights: Weights = next(each for each in PUBLISHED if each.repository == repository)
        for name in (*weights.required, "model.safetensors") if self._complete else ("README.md",):
            (local_dir / name).write_bytes(b"x")


def test_pull_fetches_both_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    monkeypatch.setattr("services.cli.models.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1e12}))
    result = CliRunner().invoke(app, ["models", "pull", "--to", str(tmp_path), "--vlm-revision", "abc"])
    assert result.exit_code == 0, result.output
    assert [(call["repository"], call["revision"]) for call in hub.calls] == [
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", None),
        ("Qwen/Qwen3-VL-4B-Instruct", "abc"),
    ]
    assert fault_of(tmp_path / "Qwen3-VL-4B-Instruct", PUBLISHED[1].required) == ""


@pytest.mark.parametrize(
    ("error", "complete", "code", "words"),
    [
        (OSError("Name or service not known"), True, 1, "Name or service not known"),
        (None, False, 1, "is not complete"),
    ],
    ids=["unreachable", "incomplete"],
)
def test_a_pull_that_fails_says_what_to_copy_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, complete: bool, code: int, words: str
) -> None:
    Hub(monkeypatch, error, complete)
    monkeypatch.setattr("services.cli.models.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1e12}))
    result = CliRunner().invoke(app, ["models", "pull", "--to", str(tmp_path)])
    assert result.exit_code == code
    assert len(result.stderr.splitlines()) == 1
    for each in (words, "open_clip_model.safetensors", str(tmp_path / "ViT-B-32")):
        assert each in result.stderr


def test_a_full_disk_is_said_before_the_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    monkeypatch.setattr("services.cli.models.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1e8}))
    result = CliRunner().invoke(app, ["models", "pull", "--to", str(tmp_path)])
    assert result.exit_code == 2
    assert "0.1 GB free" in result.stderr
    assert hub.calls == []


def test_models_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONDRIAN_MODELS_DIR", str(tmp_path))
    result = CliRunner().invoke(app, ["models", "list"])
    assert result.exit_code == 0
    assert result.stdout.count("full") >= 2
    assert "missing" in result.stdout
