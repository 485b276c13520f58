"""Ridge regression, its folds, and rank correlations."""

from __future__ import annotations

import numpy as np
import pytest

from services.scorer import ridge


def test_a_group_lies_in_one_fold_and_folds_are_even() -> None:
    groups = [f"group {i // 3}" for i in range(90)]
    found = ridge.folds(groups, 10)
    assert np.bincount(found).tolist() == [9] * 10
    for start in range(0, 90, 3):
        assert len(set(found[start : start + 3])) == 1


def test_it_finds_a_line_among_distractions_and_its_constant() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(300, 40))
    y = 2 * x[:, 3] - x[:, 7] + 5
    weights, bias = ridge.fit(x, y, [str(i) for i in range(300)])
    assert weights[[3, 7]] == pytest.approx([2, -1], abs=0.05)
    assert bias == pytest.approx(5, abs=0.05)
    assert ridge.spearman(ridge.out_of_fold(x, y, [str(i) for i in range(300)]), y) > 0.99


def test_what_was_not_seen_cannot_be_remembered() -> None:
    # Every group has one rating and one mark of its own: only who has seen the group can know its rating.
    generator = np.random.default_rng(2)
    group = np.arange(200) // 4
    x = np.eye(50)[group] + 0.01 * generator.normal(size=(200, 50))
    y = generator.normal(size=50)[group]
    alone, together = [str(i) for i in range(200)], [str(i) for i in group]
    assert ridge.spearman(ridge.out_of_fold(x, y, alone), y) > 0.9
    assert ridge.spearman(ridge.out_of_fold(x, y, together), y) < 0.3


def test_ranks_and_rank_correlation() -> None:
    np.testing.assert_array_equal(ridge.ranks(np.array([3.0, 1.0, 3.0, 9.0])), [1.5, 0, 1.5, 3])
    assert ridge.spearman(np.array([1.0, 2, 3, 4]), np.array([1.0, 8, 9, 70])) == pytest.approx(1)
    assert ridge.spearman(np.array([1.0, 2, 3, 4]), np.array([4.0, 3, 2, 1])) == pytest.approx(-1)
    # 1 - 6 sum(d^2) / (n (n^2 - 1)) with d = 1, 1, 0, 0.
    assert ridge.spearman(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 3, 4])) == pytest.approx(1 - 6 * 2 / 60)
    assert ridge.spearman(np.array([1.0, 2, 3, 4]), np.ones(4)) == 0


def test_resamples_scatter_about_the_correlation() -> None:
    generator = np.random.default_rng(3)
    truth = generator.normal(size=200)
    good, none = truth + generator.normal(size=200), generator.normal(size=200)
    drawn = ridge.resampled([good, none], truth, [str(i) for i in range(200)])
    assert drawn.shape == (2, 1000)
    assert drawn[0].mean() == pytest.approx(ridge.spearman(good, truth), abs=0.02)
    assert np.quantile(drawn[0] - drawn[1], 0.025) > 0
