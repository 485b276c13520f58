"""The measures have not moved: scores compare only within one id, so whoever moves them must change the id."""

from __future__ import annotations

import json

import pytest

from services.scorer.calibration import Calibration
from services.scorer.scoring import Scorer
from tests.golden import scorer as golden


def test_scores_are_those_that_were_published() -> None:
    stored = json.loads(golden.PATH.read_text(encoding="utf-8"))
    assert stored["scorer"] == Scorer(Calibration.load()).id, "make it anew: python -m tests.golden.scorer"
    now = golden.scores()
    assert set(now) == set(stored["scores"])
    for name, expected in stored["scores"].items():
        # Sums in another order on another machine move a score by less than this.
        assert now[name] == pytest.approx(expected, abs=0.05), name
