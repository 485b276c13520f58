"""References as lines of text, and what a precompute keeps of its work."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.core.errors import AdvisorNotFound
from services.scorer.calibration import Calibration
from services.scorer.references import Library, reference_from_json, reference_to_json, scores_to_json
from services.scorer.scoring import Picture, Scorer
from services.scorer.work import Work
from tests.pictures import picture
from tests.unit.scorer import making


def test_a_reference_survives_its_line() -> None:
    (measured,) = Scorer(Calibration.load()).score([Picture.of(picture(3))])
    was = making.reference(1, measured, best_for=["lighting"])
    line = reference_to_json(was)
    assert "\n" not in line
    now = reference_from_json(line)
    assert (now.id, now.title, now.file_name, now.best_for) == (was.id, was.title, was.file_name, was.best_for)
    assert now.scores.values == pytest.approx(was.scores.values, rel=1e-4)
    assert [one.evidence for one in now.scores.dimensions] == [one.evidence for one in was.scores.dimensions]
    assert reference_to_json(now) == line


def test_a_line_of_other_measures_is_refused() -> None:
    line = reference_to_json(making.reference(1, making.scores())).replace('"tilt"', '"slope"')
    with pytest.raises(ValueError, match="not this scorer's"):
        reference_from_json(line)


def test_an_unknown_advisor_is_named_with_those_that_are_there() -> None:
    library = Library(None, "r", {"ansel": making.advisor([5.0])})
    assert library.advisor("ansel").profile.count == 1
    with pytest.raises(AdvisorNotFound, match=r"'weston'.*there are: ansel"):
        library.advisor("weston")
    assert library.scores_of(making.reference(0, making.scores()).id) is not None
    assert library.scores_of("0" * 64) is None


def test_work_survives_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    work = Work(tmp_path, "signal@1")
    work.put({"a" * 64: making.scores(default=3.0), "b" * 64: making.scores(default=4.0)})
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    again = Work(tmp_path, "signal@1")
    kept = again.get("a" * 64)
    assert kept is not None
    assert scores_to_json(kept) == scores_to_json(making.scores(default=3.0))
    assert again.get("b" * 64) is None
    again.put({"b" * 64: making.scores(default=4.0)})
    assert Work(tmp_path, "signal@1").get("b" * 64) is not None
    assert Work(tmp_path, "signal@2").get("a" * 64) is None
    again.forget(["a" * 64])
    assert Work(tmp_path, "signal@1").get("a" * 64) is None
    assert Work(tmp_path, "signal@1").get("b" * 64) is not None
    again.forget(["b" * 64])
    assert list(tmp_path.iterdir()) == []
