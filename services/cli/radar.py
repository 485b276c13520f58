"""The geometry of a radar chart: eight scores of a photograph upon the advisor's distribution of each.

Every axis runs from the centre (0) to the rim (10); the first points up, the others follow clockwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mondrian.scorer.v1 import scorer_pb2

from services.cli.wording import dimension_name

RADIUS: Final = 160.0
"""The length of an axis, in the units of the drawing."""
CENTRE_X: Final = 270.0
CENTRE_Y: Final = 204.0
WIDTH: Final = 540
HEIGHT: Final = 418
RINGS: Final = (2, 4, 6, 8, 10)
LABEL_GAP: Final = 20.0
# Below this |cosine| a label stands above or below its axis and is centred.
UPRIGHT_COSINE: Final = 0.3


@dataclass(frozen=True)
class Spot:
    """A place in the drawing, y downwards."""

    x: float
    y: float


@dataclass(frozen=True)
class Label:
    """The name of an axis, on one line or two."""

    lines: tuple[str, ...]
    x: float
    y: float
    anchor: str
    """start, middle or end: how the text lies to the place."""
    score: str


@dataclass(frozen=True)
class Radar:
    """What the drawing consists of; paths are values of an SVG path's `d`."""

    centre: Spot
    """Where the axes begin."""

    rings: tuple[str, ...]
    """Octagons at 2, 4, 6, 8 and 10 points."""
    rims: tuple[Spot, ...]
    """The ends of the axes."""
    labels: tuple[Label, ...]
    photograph: str
    """The octagon of the photograph's scores."""
    dots: tuple[Spot, ...]
    """Its corners."""
    band: str
    """The ring between the references' 5th and 95th percentiles; empty without a comparison. Fill by evenodd."""
    mean: str
    """The octagon of the references' means; empty without a comparison."""


def radar(scores: scorer_pb2.ScoreResponse) -> Radar:
    """Returns the chart of eight scores; fewer or more dimensions give as many axes."""
    dimensions = scores.dimensions
    count = len(dimensions)
    values = [score.score for score in dimensions]
    references = [score.comparison.reference for score in dimensions if score.HasField("comparison")]
    band = mean = ""
    if references and len(references) == count:
        mean = _closed([reference.mean for reference in references])
        if all(len(reference.quantiles) >= 2 for reference in references):
            outer = _closed([reference.quantiles[-1] for reference in references])
            band = f"{outer} {_closed([reference.quantiles[0] for reference in references])}"
    return Radar(
        centre=Spot(CENTRE_X, CENTRE_Y),
        rings=tuple(_closed([ring] * count) for ring in RINGS),
        rims=tuple(_spot(10, place, count) for place in range(count)),
        labels=tuple(_label(score, place, count) for place, score in enumerate(dimensions)),
        photograph=_closed(values),
        dots=tuple(_spot(value, place, count) for place, value in enumerate(values)),
        band=band,
        mean=mean,
    )


def _spot(value: float, place: int, count: int, beyond: float = 0.0) -> Spot:
    angle = 2 * math.pi * place / count
    length = RADIUS * min(10.0, max(0.0, value)) / 10 + beyond
    return Spot(round(CENTRE_X + length * math.sin(angle), 1), round(CENTRE_Y - length * math.cos(angle), 1))


def _closed(values: Sequence[float]) -> str:
    spots = [_spot(value, place, len(values)) for place, value in enumerate(values)]
    return "M" + " L".join(f"{spot.x:g},{spot.y:g}" for spot in spots) + " Z"


def _label(score: scorer_pb2.DimensionScore, place: int, count: int) -> Label:
    spot = _spot(10, place, count, beyond=LABEL_GAP)
    across = math.sin(2 * math.pi * place / count)
    anchor = "middle" if abs(across) < UPRIGHT_COSINE else "start" if across > 0 else "end"
    lines = tuple(dimension_name(score.dimension).split(" "))
    return Label(lines, spot.x, spot.y, anchor, f"{score.score:.1f}")
