"""An advisor's distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scorer.dimensions import NAMES
from services.scorer.profile import QUANTILES, Profile, build, student_975


def _profile(count: int, advisor: str = "ansel", seed: int = 0) -> tuple[Profile, np.ndarray]:
    scores = np.random.default_rng(seed).uniform(0, 10, (count, 8))
    ids = [f"{number:064x}" for number in range(count)]
    return build(advisor, "signal@0123456789ab", ids, scores, [number % 2 == 0 for number in range(count)]), scores


def test_the_statistics_are_those_of_the_references() -> None:
    profile, scores = _profile(40)
    for d, one in enumerate(profile.distributions):
        assert one.mean == pytest.approx(scores[:, d].mean())
        assert one.stddev == pytest.approx(scores[:, d].std(ddof=1))
        assert one.quantiles == pytest.approx(np.quantile(scores[:, d], QUANTILES))
        assert one.best == f"{int(scores[:, d].argmax()):064x}"[:16]
    assert (profile.count, profile.monochrome_share) == (40, 0.5)


@given(st.integers(1, 2000), st.integers(1, 64), st.integers(0, 99))
def test_a_profile_has_less_than_a_kilobyte_and_survives_it(count: int, letters: int, seed: int) -> None:
    profile, _ = _profile(count, "a" * letters, seed)
    text = profile.to_json()
    assert len(text.encode()) < 1024
    again = Profile.from_json(text)
    assert again.to_json() == text
    assert (again.advisor, again.scorer, again.count) == (profile.advisor, profile.scorer, profile.count)
    for was, now in zip(profile.distributions, again.distributions, strict=True):
        assert now.mean == pytest.approx(was.mean, abs=0.005)
        assert now.best == was.best


def test_a_single_reference_has_no_spread_and_says_nothing_about_others() -> None:
    profile, _ = _profile(1)
    assert [one.stddev for one in profile.distributions] == [0.0] * len(NAMES)
    assert profile.uncertainty() == math.inf


def test_the_means_of_few_references_are_uncertain() -> None:
    few, scores = _profile(4)
    spread = np.mean([3.182 * scores[:, d].std(ddof=1) / 2 for d in range(8)])
    assert few.uncertainty() == pytest.approx(spread, rel=0.02)
    assert _profile(100)[0].uncertainty() < few.uncertainty() / 4


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # From the printed table of Student's distribution.
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042), (1000, 1.962)],
)
def test_student(freedom: int, quantile: float) -> None:
    assert student_975(freedom) == pytest.approx(quantile, rel=0.015)


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format 2"):
        Profile.from_json('{"format":2}')
