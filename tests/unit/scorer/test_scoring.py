"""Overall score, grade, resolution and ids."""

from __future__ import annotations

import numpy as np
import pytest

from services.scorer.calibration import Calibration
from services.scorer.scoring import GRADES, DimensionScore, Picture, Scorer, Scores, grade
from tests.unit.scorer import making


def _with(confidences: list[float], values: list[float]) -> Scores:
    dimensions = [
        DimensionScore(value, confidence, ("Seen.",), "Try.", {})
        for value, confidence in zip(values, confidences, strict=True)
    ]
    return Scores(tuple(dimensions), 1.0)


def test_the_overall_score_trusts_what_is_trusted() -> None:
    assert _with([0.9] + [0.0] * 7, [8.0] + [1.0] * 7).overall == pytest.approx(8)
    assert _with([0.5] * 8, [2.0, 4.0] * 4).overall == pytest.approx(3)
    assert _with([0.0] * 8, [2.0, 4.0] * 4).overall == pytest.approx(3)


@pytest.mark.parametrize(
    ("overall", "expected"),
    [(10, "A+"), (7.5, "A+"), (7.49, "A"), (6.5, "A-"), (5.0, "B-"), (4.99, "C+"), (3.5, "C-"), (2.5, "D"), (2.4, "F")],
)
def test_grades(overall: float, expected: str) -> None:
    assert grade(overall) == expected


def test_there_are_eleven_grades_in_falling_order() -> None:
    bounds = [least for least, _ in GRADES]
    assert bounds == sorted(bounds, reverse=True)
    assert len({*(name for _, name in GRADES), "F"}) == 11


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(4000, 3000, 1.0), (512, 384, 1.0), (128, 96, 0.5), (2000, 250, 0.5), (1, 1, 512**-0.5)],
)
def test_resolution(width: int, height: int, expected: float) -> None:
    picture = Picture(np.zeros((16, 16, 3), np.uint8), width, height)
    assert picture.resolution == pytest.approx(expected)


def test_half_way_to_grey_is_monochrome_and_the_id_names_the_calibration() -> None:
    assert making.scores(color_weight=0.49).monochrome
    assert not making.scores(color_weight=0.5).monochrome
    calibration = Calibration.load()
    assert Scorer(calibration).id == f"signal@{calibration.id}"
