"""A photograph's scores against an advisor's distribution: percentile, gap, what needs work, and examples.

`needs_work` is claimed sparingly, or a master's own photographs would be full of faults. A dimension needs work when
all of this holds:

- the advisor has at least 10 references;
- its confidence is at least 0.4;
- the score lies below the mean by more than max(k sd sqrt(1 + 1/n), 0.6) points, with a standard deviation of at least
  0.5 points: the lower bound of where the advisor's next photograph would be expected (k = 1.5: about one in fifteen of
  the advisor's own lies lower);
- it is one of the two that lie furthest below in this measure.

Colours are not compared with tones: where photograph and references are of different kinds (the references more than
half monochrome or not), color_harmony is neither flagged nor given a place among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.scorer.dimensions import NAMES
from services.scorer.references import AdvisorReferences, Reference
from services.scorer.scoring import Scores

LEAST_REFERENCES: Final = 10
LEAST_CONFIDENCE: Final = 0.4
LEAST_GAP: Final = 0.6
LEAST_STDDEV: Final = 0.5
WIDTH: Final = 1.5
MOST_FLAGGED: Final = 2
MOST_EXAMPLES: Final = 3
_COLOR_HARMONY: Final = NAMES.index("color_harmony")


@dataclass(frozen=True)
class Comparison:
    """One dimension of one photograph against the advisor."""

    percentile: float
    """The share of the references that score lower, those that score the same counted half; 0-100."""
    gap_points: float
    """Score minus mean, in points."""
    gap: float
    """The same in standard deviations (at least 0.5 points each); 0 with fewer than 10 references, or where the
    kinds differ.
    """
    needs_work: bool
    advice: str
    """What to try; empty unless the score is below the mean."""
    comparable: bool
    """False where colour would be compared with monochrome; percentile, gap_points and gap are 0 then."""
    examples: tuple[Reference, ...]
    """Where work is needed: up to three references, the most telling first; none appears twice in one answer."""


def compare(scores: Scores, advisor: AdvisorReferences, photograph_id: str = "") -> list[Comparison]:
    """Returns the comparison of each dimension, in order.

    `photograph_id` keeps a photograph that is itself a reference from being its own example.
    """
    profile, matrix = advisor.profile, advisor.matrix
    comparable = [d != _COLOR_HARMONY or not _kinds_differ(scores, advisor) for d in range(len(NAMES))]
    gaps, excess = [], []
    for d, (one, distribution) in enumerate(zip(scores.dimensions, profile.distributions, strict=True)):
        points = one.score - distribution.mean
        deviation = max(distribution.stddev, LEAST_STDDEV)
        gaps.append(points / deviation if profile.count >= LEAST_REFERENCES and comparable[d] else 0.0)
        bound = max(WIDTH * deviation * math.sqrt(1 + 1 / profile.count), LEAST_GAP)
        claimed = profile.count >= LEAST_REFERENCES and comparable[d] and one.confidence >= LEAST_CONFIDENCE
        excess.append(-points / bound if claimed else 0.0)
    worst = sorted(range(len(NAMES)), key=lambda d: -excess[d])[:MOST_FLAGGED]
    flagged = [d for d in worst if excess[d] > 1]
    examples = _examples(scores, advisor, flagged, photograph_id)
    return [
        Comparison(
            percentile=_percentile(matrix[:, d], one.score) if comparable[d] else 0.0,
            gap_points=one.score - profile.distributions[d].mean if comparable[d] else 0.0,
            gap=gaps[d],
            needs_work=d in flagged,
            advice=one.advice if one.score < profile.distributions[d].mean and comparable[d] else "",
            comparable=comparable[d],
            examples=examples.get(d, ()),
        )
        for d, one in enumerate(scores.dimensions)
    ]


def note(scores: Scores, advisor: AdvisorReferences | None) -> str:
    """Returns sentences where not the whole file was judged or the comparison is limited, else an empty text."""
    sentences = []
    if scores.border:
        sentences.append(
            f"A border around the photograph ({scores.border:.0%} of the area) was left out: "
            "the scores are of what lies within it."
        )
    if advisor is None:
        return " ".join(sentences)
    profile = advisor.profile
    if profile.count == 1:
        sentences.append("With a single reference nothing can be said about the advisor's range.")
    elif profile.count < LEAST_REFERENCES:
        sentences.append(
            f"Only {profile.count} references: their means are uncertain by {profile.uncertainty():.1f} points, "
            f"too few to say what needs work (that takes {LEAST_REFERENCES})."
        )
    if _kinds_differ(scores, advisor):
        ours = "monochrome" if scores.monochrome else "in colour"
        theirs = "in colour" if scores.monochrome else "monochrome"
        sentences.append(f"The photograph is {ours} and most references are {theirs}: color harmony is not compared.")
    return " ".join(sentences)


def _percentile(references: np.ndarray, score: float) -> float:
    return 50 * float((references < score).mean() + (references <= score).mean())


def _kinds_differ(scores: Scores, advisor: AdvisorReferences) -> bool:
    return scores.monochrome != (advisor.profile.monochrome_share > 0.5)


def _examples(
    scores: Scores, advisor: AdvisorReferences, flagged: list[int], photograph_id: str
) -> dict[int, tuple[Reference, ...]]:
    """Up to three references for each flagged dimension, shared out in turns so that none appears twice."""
    used = {photograph_id}
    chosen: dict[int, list[Reference]] = {d: [] for d in flagged}
    ranked = {d: _ranked(scores, advisor, d) for d in flagged}
    for _ in range(MOST_EXAMPLES):
        for d in flagged:
            found = next((reference for reference in ranked[d] if reference.id not in used), None)
            if found is not None:
                used.add(found.id)
                chosen[d].append(found)
    return {d: tuple(references) for d, references in chosen.items()}


def _ranked(scores: Scores, advisor: AdvisorReferences, dimension: int) -> list[Reference]:
    """References above the mean in a dimension, the best first; what the metadata calls best for it gains a point."""
    name, mean = NAMES[dimension], advisor.profile.distributions[dimension].mean

    def merit(reference: Reference) -> float:
        alike = reference.scores.monochrome == scores.monochrome
        return float(reference.scores.values[dimension]) + (name in reference.best_for) + 0.5 * alike

    above = [one for one in advisor.references if one.scores.values[dimension] > mean]
    return sorted(above, key=lambda reference: (-merit(reference), reference.id))
