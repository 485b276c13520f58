"""Whole answers of a gateway, as full as real ones, for whatever shows them."""

from __future__ import annotations

from typing import Final

import numpy as np
from mondrian.critic.v1 import critic_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.scorer.v1 import scorer_pb2
from mondrian.types.v1 import types_pb2

from tests.pictures import encoded

DIMENSIONS: Final = tuple(value for value in types_pb2.Dimension.values() if value)
SCORES: Final = (7.2, 4.1, 8.0, 6.4, 6.6, 5.0, 7.4, 6.0)
MEANS: Final = (6.8, 6.9, 7.4, 6.1, 6.4, 6.2, 7.0, 6.6)
TITLES: Final = ("Moon over the ridge", "Lake at noon", "Dunes, late light")
CRITIQUE: Final = (
    "The ridge runs from the lower left to the moon, and the eye follows it. Hold the exposure down:"
    " the snow has lost its texture.\nWait until the shadow reaches the trees."
)

SECTIONS: Final = critic_pb2.Sections(
    overview="The ridge leads to the moon.",
    strengths=["The snow keeps its texture.", "The <b>lines</b> are level."],
    to_try=["Wait for the shadow."],
    voice="Place the snow on Zone VII.",
)


def picture(width: int = 96, height: int = 64) -> bytes:
    """Returns an encoded picture: a dark ridge under a bright sky."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    sky = 120 + 110 * (1 - y / height)
    ridge = y > height * (0.62 + 0.12 * np.sin(x / width * 7))
    grey = np.where(ridge, 40 + 20 * x / width, sky)
    return encoded(np.stack([grey, grey * 0.97, grey * 0.92], -1).astype(np.uint8), "JPEG")


def answer(advisor: str = "ansel", *, thumbnails: bool = True) -> gateway_pb2.AnalyzeResponse:
    """Returns a combined answer without failures."""
    response = gateway_pb2.AnalyzeResponse(
        summary=f"Your photograph is nearest to “{TITLES[0]}” (0.83) by {advisor}.", total_ms=1310.5
    )
    _add_references(response, advisor, thumbnails)
    _add_scores(response)
    response.critique.CopyFrom(
        critic_pb2.CritiqueResponse(
            text=CRITIQUE,
            authorship=critic_pb2.Authorship(model="sample-vlm", adapter=advisor, adapter_revision="0123456789ab"),
            completion=critic_pb2.Completion(
                finish_reason=critic_pb2.FINISH_REASON_STOP, completion_tokens=48, time_to_first_token_ms=211
            ),
        )
    )
    for part, elapsed in ((gateway_pb2.PART_REFERENCES, 61.0), (gateway_pb2.PART_CRITIQUE, 1306.0)):
        response.part_timings.add(part=part, elapsed_ms=elapsed)
    response.part_timings.add(part=gateway_pb2.PART_SCORES, elapsed_ms=402.0)
    return response


def divided(advisor: str = "ansel") -> gateway_pb2.AnalyzeResponse:
    """Returns a combined answer whose critique came as JSON."""
    response = answer(advisor)
    response.critique.text = '{"overview": "..."}'
    response.critique.sections.CopyFrom(SECTIONS)
    return response


def without_critique(advisor: str = "ansel") -> gateway_pb2.AnalyzeResponse:
    """Returns a combined answer whose critique failed."""
    response = answer(advisor)
    response.ClearField("critique")
    status = types_pb2.Status(code=14, reason="BACKEND_UNAVAILABLE", message="The critic cannot be reached.")
    response.failures.add(part=gateway_pb2.PART_CRITIQUE, status=status)
    return response


def set_score(dimension: scorer_pb2.DimensionScore, score: float, mean: float) -> None:
    """Makes a dimension score `score` beside references of the mean `mean`."""
    dimension.score, dimension.comparison.reference.mean = score, mean
    dimension.comparison.gap_points = score - mean


def _add_references(response: gateway_pb2.AnalyzeResponse, advisor: str, thumbnails: bool) -> None:
    response.references.encoder = "sample-clip@0"
    response.references.release = "a" * 64
    for rank, title in enumerate(TITLES):
        reference = types_pb2.Reference(
            id=f"{rank:064d}",
            advisor=advisor,
            title=title,
            year=1941 + rank,
            location="A valley",
            description="A ridge under the moon.",
            significance="It holds every tone from black to white.",
            best_for=[types_pb2.DIMENSION_LIGHTING, types_pb2.DIMENSION_DEPTH_PERSPECTIVE],
            width=640,
            height=480,
            thumbnail_jpeg=picture() if thumbnails else b"",
        )
        response.references.neighbors.add(reference=reference, similarity=0.83 - 0.12 * rank)


def _add_scores(response: gateway_pb2.AnalyzeResponse) -> None:
    scores = response.scores
    scores.overall, scores.grade, scores.scorer, scores.release = 6.4, "B", "sample-scorer@0", "b" * 64
    for dimension, score, mean in zip(DIMENSIONS, SCORES, MEANS, strict=True):
        best = scorer_pb2.Example(reference_id=f"{0:064d}", title=TITLES[0], score=min(10.0, mean + 1.6))
        lacking = score < mean - 1
        scores.dimensions.add(
            dimension=dimension,
            score=score,
            confidence=0.7,
            evidence=["The brightest tenth of the frame lies on the upper right third.", "Few tones are lost."],
            measures=[scorer_pb2.Measure(name="tonal_range", value=61.4, unit="L*")],
            basis=scorer_pb2.BASIS_SIGNAL,
            comparison=scorer_pb2.Comparison(
                reference=scorer_pb2.Distribution(
                    mean=mean,
                    stddev=0.8,
                    count=26,
                    best_example=best,
                    quantiles=[mean - 1.3, mean - 0.5, mean, mean + 0.5, mean + 1.2],
                ),
                percentile=62.0,
                gap_points=score - mean,
                gap=(score - mean) / 0.8,
                needs_work=lacking,
                advice="Expose for the highlights." if score < mean else "",
                examples=[best] if lacking else [],
            ),
        )
