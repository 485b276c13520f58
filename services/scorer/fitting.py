"""Fits prompt tables and heads on measured photographs, and says what people's ratings make of them.

A candidate (a head, or the prompts) is judged by the rank correlation of the score that would be served, blended with
the measures as `learned` says, with the ratings: of the head's predictions those by cross-validation, grouped and
nested. It is kept only where the lower bound of the 95% interval of its gain over the measures alone is above 0, so it
is never worse than the measures by the ratings at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.core.commands.progress import Progress
from services.core.errors import ConfigurationError
from services.scorer import prompts, ridge
from services.scorer.calibration import LEAST_PHOTOGRAPHS, LEVELS, Calibration, Floats, interpolate, knots_of
from services.scorer.clip import Backbone, Matrix
from services.scorer.dimensions import NAMES
from services.scorer.learned import FEATURES, HEAD_WEIGHT, PROMPT_WEIGHTS, Heads, Prompts, blend, standardised


@dataclass(frozen=True)
class Sample:
    """Measured photographs."""

    features: Floats
    """[N, len(FEATURES)]."""
    color_weight: Floats
    """[N]."""
    embeddings: Matrix | None
    """[N, D]; None without a backbone."""

    def z(self, calibration: Calibration) -> Floats:
        """Returns the calibrated measures' z values [N, 8]."""
        return calibration.z(self.features[:, : len(NAMES)], self.color_weight)


@dataclass(frozen=True)
class Candidate:
    """What could be blended with the measures of one rated dimension."""

    correlation: float
    """Rank correlation of the blended score with the ratings."""
    gain: tuple[float, float]
    """95% interval of its gain over the measures alone."""

    @property
    def kept(self) -> bool:
        """Whether the ratings prefer it to the measures."""
        return self.gain[0] > 0


@dataclass(frozen=True)
class Verdict:
    """What the ratings of one dimension say."""

    dimension: str
    rated: int
    """How many photographs."""
    measures: float
    """Rank correlation of the measures alone."""
    interval: tuple[float, float]
    """Its 95% interval."""
    head: Candidate
    prompts: Candidate | None
    """None without a backbone, and for focus_sharpness."""

    @property
    def choice(self) -> str:
        """Returns "head", "prompts" or "measures": the best of what is kept."""
        candidates = {"head": self.head} | ({"prompts": self.prompts} if self.prompts else {})
        kept = {name: one.correlation for name, one in candidates.items() if one.kept}
        return max(kept, key=lambda name: kept[name]) if kept else "measures"


def check(values: Floats, groups: Sequence[str]) -> None:
    """Does nothing where ratings [N, 8] of photographs in these groups can be fitted.

    Raises:
        ConfigurationError: a rated dimension has fewer than 100 photographs, fewer than 10 groups, or equal ratings.
    """
    for d, name in enumerate(NAMES):
        rated = np.flatnonzero(~np.isnan(values[:, d])).tolist()
        if not rated:
            continue
        if len(rated) < LEAST_PHOTOGRAPHS:
            raise ConfigurationError(
                f"{len(rated)} photographs are rated in {name}: give {LEAST_PHOTOGRAPHS} or more, or leave the column "
                "out."
            )
        if len({groups[i] for i in rated}) < ridge.FOLDS:
            raise ConfigurationError(f"The ratings of {name} come from fewer than {ridge.FOLDS} groups: give more.")
        if np.ptp(values[rated, d]) == 0:
            raise ConfigurationError(f"All ratings of {name} are equal: leave the column out.")


def fit_prompts(sample: Sample, backbone: Backbone, z: Floats) -> Prompts:
    """Returns the prompt tables, calibrated on a sample with embeddings and its measures' z values [N, 8].

    The weight is 0 where the model tells no pictures apart, as one that does not know the words.
    """
    assert sample.embeddings is not None
    directions = prompts.directions(backbone)
    raw = prompts.raw(directions, sample.embeddings)
    low, high = np.quantile(raw, (LEVELS[0], LEVELS[-1]), axis=0)
    mute = high - low < 1e-6
    # Knots need a width, in the columns that nobody asks too.
    raw[:, mute] = np.linspace(0, 1, len(raw))[:, None]
    knots = knots_of(raw)
    return Prompts(np.where(mute, 0, PROMPT_WEIGHTS), directions, knots, _agreement(interpolate(raw, knots), z))


def fit_heads(
    sample: Sample, z: Floats, ratings: Floats, groups: Sequence[str], asked: Prompts | None, shown: Progress
) -> tuple[Heads, list[Verdict]]:
    """Returns the heads of the rated dimensions and what the ratings [N, 8] say; weights are 0 where none is kept.

    `shown` moves on by one a dimension.
    """
    center, deviation = sample.features.mean(axis=0), np.maximum(sample.features.std(axis=0), 1e-6)
    measured = standardised(sample.features, center, deviation)
    # One scale for the whole embedding, so that both blocks weigh the same before they are fitted.
    embedded = np.zeros((len(z), 0)) if sample.embeddings is None else sample.embeddings.astype(np.float64)
    middle = embedded.mean(axis=0)
    total = np.sqrt(((embedded - middle) ** 2).sum(axis=1).mean()) if embedded.size else 1.0
    scale = np.sqrt(len(FEATURES)) / max(float(total), 1e-6)
    both = np.concatenate([measured, (embedded - middle) * scale], axis=1)
    prompts_z = None if asked is None else _prompts_z(sample, asked)

    shape = len(NAMES)
    weight, bias, agreement = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    from_measures, from_embedding = np.zeros((shape, len(FEATURES))), np.zeros((shape, embedded.shape[1]))
    knots = knots_of(np.repeat(np.linspace(-1, 1, LEAST_PHOTOGRAPHS)[:, None], shape, axis=1))
    verdicts = []
    for d, name in enumerate(NAMES):
        rated = np.flatnonzero(~np.isnan(ratings[:, d])).tolist()
        if rated:
            # CLIP cannot see focus: its head reads the measures only.
            x = (measured if name == "focus_sharpness" else both)[rated]
            truth, of = ratings[rated, d], [groups[i] for i in rated]
            y = (truth - truth.mean()) / truth.std()
            unseen = ridge.out_of_fold(x, y, of)
            # Fresh photographs are spread like unseen ones, and less than those that were fitted.
            knots[:, [d]] = knots_of(unseen[:, None])
            said = interpolate(unseen[:, None], knots[:, [d]])
            agreement[d] = _agreement(said, z[rated][:, [d]])[0]
            weights, bias[d] = ridge.fit(x, y, of)
            from_measures[d] = weights[: len(FEATURES)]
            if x.shape[1] > len(FEATURES):
                from_embedding[d] = weights[len(FEATURES) :] * scale
                bias[d] -= from_embedding[d] @ middle
            alone = z[rated, d]
            options = [alone, blend(alone, said[:, 0], HEAD_WEIGHT, agreement[d])[0]]
            if asked is not None and prompts_z is not None and asked.weight[d] > 0:
                share = asked.weight[d] * (sample.color_weight[rated] if name == "color_harmony" else 1.0)
                options.append(blend(alone, prompts_z[rated, d], share, asked.agreement[d])[0])
            verdicts.append(_verdict(name, options, truth, of))
            weight[d] = HEAD_WEIGHT if verdicts[-1].choice == "head" else 0.0
        shown.advance()
    return Heads(weight, center, deviation, from_measures, from_embedding, bias, knots, agreement), verdicts


def _prompts_z(sample: Sample, asked: Prompts) -> Floats:
    assert sample.embeddings is not None
    return interpolate(prompts.raw(asked.directions, sample.embeddings), asked.knots)


def _verdict(name: str, options: Sequence[Floats], truth: Floats, groups: Sequence[str]) -> Verdict:
    """Of options: the measures, with the head, with the prompts."""
    drawn = ridge.resampled(options, truth, groups)
    candidates = [
        Candidate(ridge.spearman(one, truth), _interval(drawn[i] - drawn[0]))
        for i, one in enumerate(options[1:], start=1)
    ]
    measures = ridge.spearman(options[0], truth)
    asked = candidates[1] if len(candidates) > 1 else None
    return Verdict(name, len(truth), measures, _interval(drawn[0]), candidates[0], asked)


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _agreement(a: Floats, b: Floats) -> Floats:
    """Correlation [D] of the columns of [N, D] and [N, D]; 0 where one is constant."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    return np.asarray((a * b).sum(axis=0) / np.where(scale > 0, scale, 1))
