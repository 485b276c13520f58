"""Scores and profiles as messages of the contract."""

from __future__ import annotations

from mondrian.scorer.v1 import scorer_pb2
from mondrian.types.v1 import types_pb2

from services.core.batching.engine import Computed
from services.core.dimensions import number_of
from services.scorer.comparison import Comparison, compare, note
from services.scorer.dimensions import DIMENSIONS, NAMES
from services.scorer.references import AdvisorReferences, Reference
from services.scorer.scoring import DimensionScore, Scores, grade


def score_response(
    scored: Computed[Scores], scorer: str, advisor: AdvisorReferences | None, release: str, total_s: float
) -> scorer_pb2.ScoreResponse:
    """Returns the answer of Score; without an advisor nothing is compared."""
    scores = scored.result
    comparisons = compare(scores, advisor, scored.key) if advisor else [None] * len(DIMENSIONS)
    overall = scores.overall
    return scorer_pb2.ScoreResponse(
        dimensions=[
            _dimension(index, one, scores.monochrome, comparisons[index], advisor)
            for index, one in enumerate(scores.dimensions)
        ],
        overall=overall,
        grade=grade(overall),
        scorer=scorer,
        release=release,
        monochrome=scores.monochrome,
        timings=types_pb2.Timings(
            total_ms=total_s * 1e3,
            queue_ms=scored.queue_s * 1e3,
            decode_ms=scored.decode_s * 1e3,
            compute_ms=scored.compute_s * 1e3,
        ),
        note=note(scores, advisor),
    )


def profile_response(advisor: AdvisorReferences, release: str) -> scorer_pb2.GetProfileResponse:
    """Returns the answer of GetProfile."""
    profile = advisor.profile
    return scorer_pb2.GetProfileResponse(
        advisor=profile.advisor,
        dimensions=[
            scorer_pb2.DimensionProfile(dimension=number_of(NAMES[index]), distribution=_distribution(index, advisor))
            for index in range(len(DIMENSIONS))
        ],
        count=profile.count,
        monochrome_share=profile.monochrome_share,
        scorer=profile.scorer,
        release=release,
    )


def _dimension(
    index: int,
    one: DimensionScore,
    monochrome: bool,
    comparison: Comparison | None,
    advisor: AdvisorReferences | None,
) -> scorer_pb2.DimensionScore:
    message = scorer_pb2.DimensionScore(
        dimension=number_of(NAMES[index]),
        score=one.score,
        confidence=one.confidence,
        evidence=one.evidence,
        measures=[
            scorer_pb2.Measure(name=name, value=value, unit=DIMENSIONS[index].units[name])
            for name, value in one.values.items()
        ],
        basis=_basis(one, monochrome),
    )
    if comparison is not None and advisor is not None:
        message.comparison.CopyFrom(
            scorer_pb2.Comparison(
                reference=_distribution(index, advisor),
                percentile=comparison.percentile,
                gap_points=comparison.gap_points,
                gap=comparison.gap,
                needs_work=comparison.needs_work,
                advice=comparison.advice,
                not_comparable=not comparison.comparable,
                examples=[_example(reference, index) for reference in comparison.examples],
            )
        )
    return message


def _basis(one: DimensionScore, monochrome: bool) -> scorer_pb2.Basis.ValueType:
    if one.second is not None and one.second.by_clip:
        return scorer_pb2.BASIS_SIGNAL_AND_CLIP
    return scorer_pb2.BASIS_MONOCHROME if monochrome else scorer_pb2.BASIS_SIGNAL


def _distribution(index: int, advisor: AdvisorReferences) -> scorer_pb2.Distribution:
    distribution = advisor.profile.distributions[index]
    return scorer_pb2.Distribution(
        mean=distribution.mean,
        stddev=distribution.stddev,
        count=advisor.profile.count,
        best_example=_example(advisor.best(index), index),
        quantiles=distribution.quantiles,
    )


def _example(reference: Reference, index: int) -> scorer_pb2.Example:
    return scorer_pb2.Example(
        reference_id=reference.id, title=reference.title, score=reference.scores.dimensions[index].score
    )
