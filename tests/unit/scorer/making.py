"""Scores and references made by hand, for tests that need no picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from services.scorer.dimensions import DIMENSIONS, NAMES
from services.scorer.references import AdvisorReferences, Reference
from services.scorer.scoring import DimensionScore, Scores


def scores(
    values: Mapping[str, float] | None = None,
    *,
    default: float = 5.0,
    confidence: float = 0.6,
    color_weight: float = 1.0,
) -> Scores:
    """Returns scores with these values, `default` for the others."""
    given = values or {}
    return Scores(
        tuple(
            DimensionScore(
                score=given.get(dimension.name, default),
                confidence=confidence,
                evidence=(f"What was seen of {dimension.name}.",),
                advice=f"What to try for {dimension.name}.",
                values=dict.fromkeys(dimension.units, 0.5),
            )
            for dimension in DIMENSIONS
        ),
        color_weight,
    )


def reference(number: int, made: Scores, best_for: Sequence[str] = ()) -> Reference:
    """Returns a reference whose id follows from its number."""
    identity = hashlib.sha256(str(number).encode()).hexdigest()
    return Reference(identity, f"Title {number}", f"{number:03d}.jpg", tuple(best_for), made)


def advisor(rows: Sequence[Mapping[str, float] | float], *, color_weight: float = 1.0) -> AdvisorReferences:
    """Returns an advisor with a reference a row: scores by dimension, or one number for all eight."""
    references = []
    for number, row in enumerate(rows):
        values = dict.fromkeys(NAMES, row) if isinstance(row, int | float) else row
        references.append(reference(number, scores(values, color_weight=color_weight)))
    return AdvisorReferences.of("ansel", "signal@test", references)
