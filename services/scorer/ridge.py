"""Ridge regression with grouped, nested cross-validation, and rank correlations with intervals.

Everything is determined by its input: folds and resamples are drawn from fixed seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.scorer.calibration import Floats

FOLDS: Final = 10
_INNER_FOLDS: Final = 5
_PENALTIES: Final = np.logspace(-2, 2.5, 10)
"""Of one row: multiplied by the number of rows."""
_RESAMPLES: Final = 1000

Positions = NDArray[np.int64]


def folds(groups: Sequence[str], count: int) -> Positions:
    """Returns the fold, 0 to count - 1, of each row [N]: equal groups share one, and folds are about equally large."""
    names, rows = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(rows)
    order = np.random.default_rng(0).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled, chosen = np.zeros(count, np.int64), np.zeros(len(names), np.int64)
    for group in order:
        chosen[group] = filled.argmin()
        filled[chosen[group]] += sizes[group]
    return chosen[rows]


def fit(x: Floats, y: Floats, groups: Sequence[str]) -> tuple[Floats, float]:
    """Returns weights [D] and bias of the ridge from x [N, D] to y [N], its penalty chosen by cross-validation."""
    fold = folds(groups, min(_INNER_FOLDS, len(set(groups))))
    error = np.zeros(len(_PENALTIES))
    for one in range(fold.max() + 1):
        inside = fold != one
        weights, biases = _solve(x[inside], y[inside], _PENALTIES)
        error += ((x[~inside] @ weights.T + biases - y[~inside, None]) ** 2).sum(axis=0)
    weights, biases = _solve(x, y, _PENALTIES[[error.argmin()]])
    return weights[0], float(biases[0])


def out_of_fold(x: Floats, y: Floats, groups: Sequence[str]) -> Floats:
    """Returns the prediction of each row [N] by a ridge that saw neither it nor its group, penalty included."""
    fold = folds(groups, min(FOLDS, len(set(groups))))
    found = np.empty(len(y))
    for one in range(fold.max() + 1):
        inside = fold != one
        weights, bias = fit(x[inside], y[inside], [group for group, there in zip(groups, inside, strict=True) if there])
        found[~inside] = x[~inside] @ weights + bias
    return found


def _solve(x: Floats, y: Floats, penalties: Floats) -> tuple[Floats, Floats]:
    """Weights [P, D] and biases [P] of each penalty, by one decomposition; the bias is not penalised."""
    mean = x.mean(axis=0)
    centred = x - mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    turned = vectors.T @ (centred.T @ (y - y.mean()))
    weights = (turned / (np.maximum(values, 0) + penalties[:, None] * len(x))) @ vectors.T
    return weights, y.mean() - weights @ mean


def ranks(values: Floats) -> Floats:
    """Returns the ranks [N], from 0; equal values share the mean of theirs."""
    _, rows, counts = np.unique(values, return_inverse=True, return_counts=True)
    first = np.concatenate([[0], counts.cumsum()[:-1]])
    return np.asarray((first + (counts - 1) / 2)[rows])


def spearman(a: Floats, b: Floats) -> float:
    """Returns the rank correlation (Spearman) of [N] and [N], -1 to 1; 0 where either is constant."""
    return float(_correlations(ranks(a)[None], ranks(b)[None])[0])


def resampled(predictions: Sequence[Floats], truth: Floats, groups: Sequence[str]) -> Floats:
    """Returns the rank correlation with the truth of each of P predictions in 1,000 bootstrap resamples of the
    groups: [P, 1000]. The same resamples for all, so that differences may be taken. Ranks are those of the whole.
    """
    names, rows = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(rows == group) for group in range(len(names))]
    generator = np.random.default_rng(0)
    ranked, true = [ranks(one) for one in predictions], ranks(truth)
    found = np.empty((len(predictions), _RESAMPLES))
    for i in range(_RESAMPLES):
        drawn = np.concatenate([members[group] for group in generator.integers(0, len(names), len(names))])
        found[:, i] = _correlations(np.stack([one[drawn] for one in ranked]), true[drawn][None])
    return found


def _correlations(a: Floats, b: Floats) -> Floats:
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.asarray((a * b).sum(axis=1) / np.where(scale > 0, scale, 1))
