"""What the scorer sees in a picture, by the words that its tests ask in."""

from __future__ import annotations

import numpy as np
from PIL import Image

from services.scorer.calibration import Calibration
from services.scorer.dimensions import NAMES
from services.scorer.measures.scene import Scene
from services.scorer.scoring import DimensionScore, Picture, Scorer
from tests.unit.scorer.pictures import Pixels

SCORER = Scorer(Calibration.load())


def taken(pixels: Pixels) -> Picture:
    """Returns pixels as the scorer takes them."""
    return Picture.of(Image.fromarray(np.ascontiguousarray(pixels)))


def seen(pixels: Pixels) -> Scene:
    """Returns what all measures build on."""
    return Scene.of([taken(pixels).pixels])


def measured(dimension: str, pixels: Pixels) -> dict[str, float]:
    """Returns the sub-measures of a dimension, by name, in their own units."""
    return dict(_scored(dimension, pixels).values)


def evidence(dimension: str, pixels: Pixels) -> str:
    """Returns the sentences of a dimension as one text."""
    return " ".join(_scored(dimension, pixels).evidence)


def advice(dimension: str, pixels: Pixels) -> str:
    """Returns what a dimension says to try."""
    return _scored(dimension, pixels).advice


def _scored(dimension: str, pixels: Pixels) -> DimensionScore:
    (scores,) = SCORER.score([taken(pixels)])
    return scores.dimensions[NAMES.index(dimension)]
