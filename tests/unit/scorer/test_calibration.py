"""The maps from raw values to scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scorer import calibration
from services.scorer.calibration import LEVELS, Calibration, CalibrationError, fit, score
from services.scorer.dimensions import NAMES


def _fitted(seed: int = 1) -> Calibration:
    generator = np.random.default_rng(seed)
    return fit(generator.normal(3, 2, (400, 8)), generator.normal(-1, 0.5, (300, 8)), "normal numbers")


def test_the_median_photograph_scores_five_and_one_deviation_is_2_1_points() -> None:
    generator = np.random.default_rng(0)
    made = fit(generator.normal(3, 2, (20_000, 8)), generator.normal(-1, 0.5, (20_000, 8)), "")
    raw = np.array([3.0, 5.0, 1.0])[:, None].repeat(8, 1)
    np.testing.assert_allclose(score(made.z(raw, np.ones(3)))[:, 0], [5, 7.1, 2.9], atol=0.1)
    tones = np.array([-1.0, -0.5])[:, None].repeat(8, 1)
    np.testing.assert_allclose(score(made.z(tones, np.zeros(2)))[:, 0], [5, 7.1], atol=0.1)


@given(st.lists(st.floats(-60, 60), min_size=2, max_size=40, unique=True))
def test_a_better_raw_value_never_scores_lower_and_all_scores_lie_inside(values: list[float]) -> None:
    made = _fitted()
    raw = np.sort(np.array(values))[:, None].repeat(8, 1)
    for weight in (0.0, 0.4, 1.0):
        found = score(made.z(raw, np.full(len(raw), weight)))
        assert (np.diff(found, axis=0) >= 0).all()
        assert ((found >= 0) & (found <= 10)).all()


def test_scores_go_on_falling_beyond_the_last_knot() -> None:
    made = _fitted()
    raw = np.array([-3.0, -5.0, -7.0])[:, None].repeat(8, 1)
    found = score(made.z(raw, np.ones(3)))
    assert (np.diff(found, axis=0) < 0).all()
    assert (found > 0).all()


def test_a_file_gives_the_same_scores_and_the_same_id() -> None:
    made = _fitted()
    again = Calibration.from_json(made.to_json())
    np.testing.assert_array_equal(again.color, made.color)
    assert again.id == made.id
    assert (again.source, again.count) == ("normal numbers", 400)
    assert _fitted(2).id != made.id


def test_tied_values_still_give_a_map_that_rises() -> None:
    raw = np.repeat(np.arange(10.0), 20)[:, None].repeat(8, 1)
    made = fit(raw, raw, "ties")
    assert (np.diff(made.color, axis=0) > 0).all()


@pytest.mark.parametrize(
    ("color", "message"),
    [
        (np.random.default_rng(0).normal(size=(99, 8)), "99 colour photographs are too few"),
        (np.ones((200, 8)), "composition does not vary"),
    ],
)
def test_what_cannot_be_fitted(color: calibration.Floats, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        fit(color, np.random.default_rng(0).normal(size=(200, 8)), "")


def test_damaged_files_are_refused_with_a_sentence(tmp_path: Path) -> None:
    text = _fitted().to_json()
    content = json.loads(text)
    for change, message in (
        ({"measures": "0"}, "measures 0"),
        ({"levels": [0.5]}, "fit it anew"),
        ({"color": {**content["color"], "lighting": [1.0] * len(LEVELS)}}, "does not increase"),
        ({"color": {}}, "cannot be read"),
    ):
        with pytest.raises(CalibrationError, match=message):
            Calibration.from_json(json.dumps({**content, **change}))
    with pytest.raises(CalibrationError, match="cannot be read"):
        Calibration.from_json(text[:200])
    with pytest.raises(CalibrationError, match="cannot be opened"):
        Calibration.load(tmp_path / "none.json")


def test_the_shipped_calibration_says_what_it_was_fitted_on() -> None:
    shipped = Calibration.load()
    # Half of the fitting set: the other half is what README's figures are measured on.
    assert shipped.source.startswith("499 everyday photographs, every other one of a set")
    assert shipped.count == 464
    assert shipped.color.shape == (len(LEVELS), len(NAMES))
