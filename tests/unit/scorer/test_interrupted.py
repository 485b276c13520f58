"""The commands that read many photographs: interrupted, each ends in a line and leaves no file behind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from services.core.commands.ending import BEGINS_ANEW
from services.scorer import calibrate, evaluate, fit, photographs, weigh
from tests.pictures import picture

Main = Callable[[Sequence[str]], int]


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    # A shell that starts the tests in its background has SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("main", "more"),
    [
        (fit.main, ["--clip-path", ".", "--out", "heads.safetensors", "--calibration-out", "new.json"]),
        (calibrate.main, ["--out", "new.json"]),
        (evaluate.main, ["--json", "new.json"]),
        (weigh.main, ["lighting"]),
    ],
    ids=["fit", "calibrate", "evaluate", "weigh"],
)
def test_an_interrupted_command_ends_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    main: Main,
    more: list[str],
    sent: signal.Signals,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    picture(1).save(tmp_path / "photos" / "one.png")

    def find(folder: Path) -> list[Path]:
        signal.raise_signal(sent)
        return []

    monkeypatch.setattr(photographs, "find", find)
    assert main([*more, "--photos", "photos"]) == 130
    assert capsys.readouterr() == ("", f"mondrian: {BEGINS_ANEW}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
