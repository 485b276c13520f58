"""What the terms of a dimension weigh."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.scorer import weigh
from services.scorer.weigh import WEIGHED, Moves, main
from tests.unit.scorer.pictures import COLOURFUL, photograph


def _moves(falls: list[float], others: list[float], seed: int = 0) -> Moves:
    generator = np.random.default_rng(seed)
    moves = Moves(("a", "b", "c"))
    moves.photographs = list(generator.normal(0, (1, 10, 1), (300, 3)))
    moves.falls = list(generator.normal(falls, 0.1, (200, 3)))
    moves.others = list(generator.normal(0, others, (200, 3)))
    return moves


def test_what_falls_by_the_change_and_by_no_other_weighs_most() -> None:
    weights = _moves([2, 0, 2], [0.1, 0.1, 3]).weights()
    assert weights["a"] > 2 * weights["c"] > 0
    # Counted in its own deviations, a term of ten times the size is no heavier.
    assert weights["b"] < 0.1 * weights["a"]


def test_no_term_weighs_against_its_sign_and_the_sum_varies_by_one() -> None:
    moves = _moves([2, 0, -2], [0.1, 0.1, 0.1])
    weights = moves.weights()
    assert weights["c"] == 0
    sums = np.array(moves.photographs) @ list(weights.values())
    assert sums.std() == pytest.approx(1, rel=0.05)
    assert moves.right(weights) == 1


def test_without_a_change_that_tells_terms_apart_all_weigh_the_same() -> None:
    weights = _moves([0, 0, 0], [0.1, 1, 0.1]).weights()
    assert weights["a"] == pytest.approx(weights["c"], rel=0.2)
    assert weights["a"] == pytest.approx(10 * weights["b"], rel=0.2)


@pytest.mark.parametrize("dimension", WEIGHED)
def test_every_term_has_a_weight(dimension: str) -> None:
    (terms, _), *_ = weigh.terms_of([photograph("coffee")], [dimension])
    assert terms[dimension].shape == (len(WEIGHED[dimension]),)
    assert np.isfinite(terms[dimension]).all()


def test_the_command_prints_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in COLOURFUL[:2]:
        Image.fromarray(photograph(name)).resize((192, 128)).save(tmp_path / f"{name}.png")
    assert main(["lighting", "--photos", str(tmp_path), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "lighting, 2 photographs, 16 changes of its own" in printed
    assert "'range': " in printed
    assert main(["subject_isolation", "--photos", str(tmp_path), "--quiet"]) == 2
    assert "Nothing changes subject_isolation" in capsys.readouterr().err


def test_a_folder_without_photographs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lighting", "--photos", str(tmp_path)]) == 2
    assert f"No photographs lie below {tmp_path}" in capsys.readouterr().err
