"""The rule of needs_work, percentiles, gaps and examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scorer.comparison import (
    LEAST_REFERENCES,
    LEAST_STDDEV,
    MOST_FLAGGED,
    WIDTH,
    compare,
    note,
)
from services.scorer.dimensions import NAMES
from services.scorer.references import AdvisorReferences
from tests.unit.scorer import making

LIGHTING, FOCUS, HARMONY = (NAMES.index(name) for name in ("lighting", "focus_sharpness", "color_harmony"))


def _spread(count: int = 20) -> list[float]:
    return [float(value) for value in np.linspace(6, 8, count)]


def _bound(advisor: AdvisorReferences, dimension: int) -> float:
    one = advisor.profile.distributions[dimension]
    return one.mean - WIDTH * max(one.stddev, LEAST_STDDEV) * math.sqrt(1 + 1 / advisor.profile.count)


def test_percentile_and_gap() -> None:
    advisor = making.advisor([4.0, 5.0, 6.0, 7.0, 8.0] * 4)
    found = compare(making.scores({"lighting": 6.5}), advisor)[LIGHTING]
    assert found.percentile == pytest.approx(60)
    assert found.gap_points == pytest.approx(0.5)
    assert found.gap == pytest.approx(0.5 / advisor.profile.distributions[LIGHTING].stddev)
    assert not found.needs_work
    assert found.advice == ""


def test_below_the_mean_there_is_advice_and_below_the_bound_there_is_work() -> None:
    advisor = making.advisor(_spread())
    bound = _bound(advisor, LIGHTING)
    above = compare(making.scores({"lighting": bound + 0.01}, default=7.0), advisor)[LIGHTING]
    below = compare(making.scores({"lighting": bound - 0.01}, default=7.0), advisor)[LIGHTING]
    assert (above.needs_work, below.needs_work) == (False, True)
    assert above.advice == below.advice == "What to try for lighting."
    assert above.examples == ()
    assert len(below.examples) == 3


def test_a_tight_distribution_is_no_reason_to_complain() -> None:
    advisor = making.advisor([7.0] * 20)
    assert not compare(making.scores({"lighting": 6.45}, default=7.0), advisor)[LIGHTING].needs_work
    assert compare(making.scores({"lighting": 6.0}, default=7.0), advisor)[LIGHTING].needs_work


@given(
    st.lists(st.floats(0, 10), min_size=8, max_size=8),
    st.integers(1, 40),
    st.floats(0, 1),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_claims_are_few_and_never_repeat_a_photograph(
    values: list[float], count: int, confidence: float, in_colour: bool
) -> None:
    advisor = making.advisor(_spread(count))
    photograph = making.scores(
        dict(zip(NAMES, values, strict=True)), confidence=confidence, color_weight=float(in_colour)
    )
    found = compare(photograph, advisor)
    flagged = [d for d, one in enumerate(found) if one.needs_work]
    assert len(flagged) <= MOST_FLAGGED
    if count < LEAST_REFERENCES or confidence < 0.4:
        assert not flagged
    shown = [reference.id for one in found for reference in one.examples]
    assert len(shown) == len(set(shown))
    for d, one in enumerate(found):
        assert one.needs_work or not one.examples
        for reference in one.examples:
            assert reference.scores.values[d] > advisor.profile.distributions[d].mean
        if one.needs_work:
            assert values[d] < advisor.profile.distributions[d].mean


def test_the_two_worst_are_shown() -> None:
    advisor = making.advisor(_spread())
    found = compare(making.scores({"lighting": 2.0, "focus_sharpness": 1.0, "composition": 4.0}, default=7.0), advisor)
    assert [NAMES[d] for d, one in enumerate(found) if one.needs_work] == ["lighting", "focus_sharpness"]
    # Shared out in turns: both get their best.
    best = advisor.best(FOCUS).id
    assert found[FOCUS].examples[0].id == best
    assert found[LIGHTING].examples[0].id != best


def test_few_references_give_no_gap_and_a_note() -> None:
    advisor = making.advisor([6.0, 7.0, 8.0])
    photograph = making.scores(default=1.0)
    assert all(one.gap == 0 and not one.needs_work for one in compare(photograph, advisor))
    assert compare(photograph, advisor)[0].gap_points == pytest.approx(-6)
    assert "Only 3 references" in note(photograph, advisor)
    assert "single reference" in note(photograph, making.advisor([6.0]))
    assert note(photograph, making.advisor(_spread())) == ""


def test_colours_are_not_compared_with_tones() -> None:
    advisor = making.advisor(_spread(), color_weight=0.0)
    photograph = making.scores(default=1.0, color_weight=1.0)
    found = compare(photograph, advisor)[HARMONY]
    assert (found.comparable, found.needs_work, found.advice) == (False, False, "")
    assert (found.gap, found.gap_points, found.percentile) == (0.0, 0.0, 0.0)
    assert "color harmony is not compared" in note(photograph, advisor)
    same = compare(making.scores(default=1.0, color_weight=0.0), advisor)[HARMONY]
    assert same.comparable
    assert same.gap < -3


def test_metadata_decides_between_near_examples_and_a_reference_is_not_its_own() -> None:
    rows = [making.reference(n, making.scores(default=7.0 + 0.1 * (n % 3))) for n in range(20)]
    rows[4] = making.reference(4, making.scores(default=7.1), best_for=["lighting"])
    advisor = AdvisorReferences.of("ansel", "signal@test", rows)
    photograph = making.scores({"lighting": 3.0}, default=7.0)
    found = compare(photograph, advisor)[LIGHTING].examples
    assert found[0].title == "Title 4"
    again = compare(photograph, advisor, photograph_id=found[0].id)[LIGHTING].examples
    assert found[0].id not in [reference.id for reference in again]
