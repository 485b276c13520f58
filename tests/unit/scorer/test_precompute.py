"""Pre-computing an advisor: incremental, resumable, and sparing of words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.core.advisors import load_advisor
from services.core.commands.progress import progress
from services.core.errors import ConfigurationError, WriterBusy
from services.core.images.reading import ImageLimits
from services.core.releases import ReleaseStore, collect, writing
from services.scorer.calibration import Calibration
from services.scorer.precomputation import Outcome, precompute, sentences
from services.scorer.precompute import run
from services.scorer.profile import Profile
from services.scorer.references import load_library
from services.scorer.scoring import Picture, Scorer, Scores
from tests.pictures import advisor_folder, encoded, picture

FOLDERS = {"ansel": range(3), "okeefe": range(3, 5), "jane": range(5, 7)}


class CountingScorer(Scorer):
    """Counts what it measures, and can die after a number of batches."""

    def __init__(self, dies_after: int | None = None) -> None:
        super().__init__(Calibration.load())
        self.measured = 0
        self._left = dies_after

    def score(self, pictures: list[Picture]) -> list[Scores]:  # type: ignore[override]
        if self._left is not None:
            if self._left == 0:
                raise KeyboardInterrupt
            self._left -= 1
        self.measured += len(pictures)
        return super().score(pictures)


def _run(store: ReleaseStore, folder: Path, scorer: Scorer, advisor: str = "ansel") -> Outcome:
    return precompute(
        load_advisor(folder, advisor),
        scorer,
        store,
        limits=ImageLimits(),
        report=lambda title, total: progress(title, total, quiet=True),
    )


def test_a_release_holds_profile_and_references(tmp_path: Path) -> None:
    store, scorer = ReleaseStore(tmp_path / "s"), CountingScorer()
    outcome = _run(store, advisor_folder(tmp_path / "ansel", range(12)), scorer)
    assert (outcome.computed, scorer.measured, outcome.skipped) == (12, 12, ())
    release = store.current()
    assert release is not None
    assert release.manifest.space_id == scorer.id
    assert release.manifest.counts == {"ansel": 12}
    text = release.file("ansel.profile.json").read_text()
    assert len(text.encode()) < 1024
    library = load_library(release, scorer.id)
    assert library.advisor("ansel").profile == Profile.from_json(text)
    assert library.advisor("ansel").matrix.shape == (12, 8)


def test_only_new_photographs_are_measured_and_other_advisors_stay(tmp_path: Path) -> None:
    store, scorer = ReleaseStore(tmp_path / "s"), CountingScorer()
    folder = advisor_folder(tmp_path / "ansel", range(4))
    first = _run(store, folder, scorer)
    _run(store, advisor_folder(tmp_path / "okeefe", range(3, 6)), scorer, "okeefe")
    # Number 3 is ansel's too, and known.
    assert scorer.measured == 6
    advisor_folder(tmp_path / "ansel", range(4, 7))
    outcome = _run(store, folder, scorer)
    # 4 and 5 are okeefe's.
    assert (outcome.computed, scorer.measured) == (1, 7)
    library = load_library(outcome.release, scorer.id)
    assert {name: one.profile.count for name, one in library.advisors.items()} == {"ansel": 7, "okeefe": 3}
    again = _run(store, folder, scorer)
    assert (again.release.id, again.computed) == (outcome.release.id, 0)
    assert first.release.id != outcome.release.id


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path / "s")
    folder = advisor_folder(tmp_path / "ansel", range(20))
    killed = CountingScorer(dies_after=2)
    with pytest.raises(KeyboardInterrupt):
        _run(store, folder, killed)
    assert store.current() is None
    rest = CountingScorer()
    outcome = _run(store, folder, rest)
    assert killed.measured + rest.measured == 20
    assert outcome.advisor.profile.count == 20
    assert list(store.work.iterdir()) == []


def test_a_run_for_another_advisor_keeps_what_an_interrupted_one_has_finished(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path / "s")
    folder = advisor_folder(tmp_path / "ansel", range(20))
    killed, rest = CountingScorer(dies_after=2), CountingScorer()
    with pytest.raises(KeyboardInterrupt):
        _run(store, folder, killed)
    _run(store, advisor_folder(tmp_path / "okeefe", range(30, 32)), CountingScorer(), "okeefe")
    _run(store, folder, rest)
    assert killed.measured + rest.measured == 20
    assert list(store.work.iterdir()) == []


def test_files_that_cannot_be_used_are_named_with_a_reason(tmp_path: Path) -> None:
    folder = advisor_folder(tmp_path / "ansel", range(3))
    references = folder / "references"
    (references / "broken.jpg").write_bytes(encoded(picture(9), "JPEG")[:300])
    (references / "empty.png").write_bytes(b"")
    with (references / "large.png").open("wb") as file:
        file.truncate(300 << 20)
    (references / "same.png").write_bytes((references / "000.png").read_bytes())
    outcome = _run(ReleaseStore(tmp_path / "s"), folder, CountingScorer())
    assert {one.file_name: one.reason for one in outcome.skipped} == {
        "broken.jpg": "IMAGE_TRUNCATED",
        "empty.png": "IMAGE_EMPTY",
        "large.png": "IMAGE_TOO_LARGE",
        "same.png": "DUPLICATE",
    }
    assert outcome.advisor.profile.count == 3
    assert [one["file_name"] for one in outcome.release.manifest.extra["skipped"]["ansel"]] == [
        "broken.jpg",
        "empty.png",
        "large.png",
        "same.png",
    ]


def test_nothing_usable_publishes_nothing(tmp_path: Path) -> None:
    references = tmp_path / "ansel" / "references"
    references.mkdir(parents=True)
    (references / "a.jpg").write_bytes(b"no photograph")
    store = ReleaseStore(tmp_path / "s")
    with pytest.raises(ConfigurationError, match=r"None of the 1 photographs of ansel can be used; the first: a\.jpg"):
        _run(store, tmp_path / "ansel", CountingScorer())
    assert store.current() is None


def test_another_scorer_leaves_the_other_advisors_behind_and_says_so(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path / "s")
    old = Scorer(Calibration.load())
    _run(store, advisor_folder(tmp_path / "okeefe", range(3)), old, "okeefe")
    shipped = Calibration.load()
    new = Scorer(Calibration(shipped.color + 1, shipped.monochrome, "other", 500))
    assert new.id != old.id
    outcome = _run(store, advisor_folder(tmp_path / "ansel", range(3)), new)
    assert outcome.left_behind == ("okeefe",)
    assert dict(outcome.release.manifest.counts) == {"ansel": 3}
    with pytest.raises(ConfigurationError, match="their scores do not compare"):
        load_library(outcome.release, old.id)


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path / "s")
    folder = advisor_folder(tmp_path / "ansel", range(2))
    with writing(store), pytest.raises(WriterBusy):
        _run(store, folder, CountingScorer())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = advisor_folder(tmp_path / "ansel", range(3))
    arguments = ["--advisor-dir", str(folder), "--data-dir", str(tmp_path / "data"), "--quiet"]
    assert run([*arguments, "--advisor-id", "ansel"]) == 0
    assert "ansel: 3 references scored, 3 of them new" in capsys.readouterr().out
    assert run([*arguments, "--advisor-id", "Not an id"]) == 2
    assert "does not fit" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "data/scorer/current/manifest.json").read_text())
    assert manifest["counts"] == {"ansel": 3}


def test_the_command_names_what_it_leaves_out_once_or_leaves_that_to_its_caller(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = advisor_folder(tmp_path / "ansel", range(2))
    (folder / "references" / "broken.jpg").write_bytes(b"no photograph")
    (folder / "references" / "notes.txt").write_text("x")
    for more, times in (([], 1), (["--brief"], 0)):
        assert run(["--advisor-dir", str(folder), "--data-dir", str(tmp_path / "data"), *more]) == 0
        printed = "".join(capsys.readouterr())
        assert [printed.count(name) for name in ("broken.jpg", "notes.txt")] == [times, times]


def test_a_damaged_release_is_built_anew_from_what_is_intact(tmp_path: Path) -> None:
    store, scorer = ReleaseStore(tmp_path / "s"), CountingScorer()
    folders = {one: advisor_folder(tmp_path / one, seeds) for one, seeds in FOLDERS.items()}
    for advisor, folder in folders.items():
        _run(store, folder, scorer, advisor).release.close()
    collect(store, 0)
    damaged = store.path_of(str(store.current_id()))
    path = damaged / "okeefe.references.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace("1", "2", 1))
    scorer.measured = 0
    outcome = _run(store, folders["ansel"], scorer)
    # Ansel's references and jane's are known; okeefe's cannot be believed.
    assert (scorer.measured, outcome.release.manifest.counts) == (0, {"ansel": 3, "jane": 2})
    spoken = " ".join(sentences(outcome))
    assert "okeefe.references.json differs from its sha256, and is replaced; it lies in" in spoken
    assert "Intact in it, and kept: jane. Not intact: okeefe;" in spoken
    assert (store.damaged / damaged.name).is_dir()
    outcome.release.close()
    again = _run(store, folders["okeefe"], scorer, "okeefe")
    assert (again.computed, again.mended) == (2, ())
    assert again.release.manifest.counts == {"ansel": 3, "jane": 2, "okeefe": 2}
