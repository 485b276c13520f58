"""Scores of photographs: measures, calibration, confidence and evidence together, no transport."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from services.scorer import calibration as calibrations
from services.scorer.border import inside
from services.scorer.calibration import Calibration, Floats
from services.scorer.clip import Backbone
from services.scorer.dimensions import DIMENSIONS, Dimension
from services.scorer.learned import Learned, features
from services.scorer.measures.planes import LONG_SIDE, normalise
from services.scorer.measures.scene import Scene

GRADES: tuple[tuple[float, str], ...] = (
    (7.5, "A+"), (7.0, "A"), (6.5, "A-"), (6.0, "B+"), (5.5, "B"), (5.0, "B-"),
    (4.5, "C+"), (4.0, "C"), (3.5, "C-"), (2.5, "D"),
)  # fmt: skip
"""Least overall score of each grade; F below. 5.0 is the median of everyday photographs."""


@dataclass(frozen=True)
class Picture:
    """A decoded photograph, ready to be measured."""

    pixels: NDArray[np.uint8]
    """[H, W, 3] sRGB at the normalised size."""
    width: int
    """Width in pixels of the photograph it was made from, without its border."""
    height: int
    """Height in pixels of the same."""
    border: float = 0.0
    """The share of the file's area that a drawn border took, 0-1."""

    @classmethod
    def of(cls, image: Image.Image, size: tuple[int, int] | None = None) -> Picture:
        """Returns the picture of what lies within the border of an upright sRGB image; `size` is the file's own, where
        it was decoded smaller.
        """
        image = image if image.mode == "RGB" else image.convert("RGB")
        width, height = size or image.size
        left, top, right, bottom = box = inside(image)
        across, down = (right - left) / image.width, (bottom - top) / image.height
        within = image if across * down == 1 else image.crop(box)
        return cls(normalise(within), round(width * across), round(height * down), 1 - across * down)

    @property
    def shape(self) -> Hashable:
        """Pictures of equal shape may share a batch."""
        return self.pixels.shape

    @property
    def resolution(self) -> float:
        """Factor of every confidence, 0-1: falls below 512 px of long side, and beyond a format of 1:4."""
        long, short = max(self.width, self.height), max(1, min(self.width, self.height))
        return float(min(1.0, (long / LONG_SIDE) ** 0.5) * min(1.0, 4 * short / long))


@dataclass(frozen=True)
class Opinion:
    """What was blended with the measures of a dimension."""

    z: float
    """Standard deviations above the median photograph of the fit."""
    source: str
    """"clip prompts", "clip head" or "head" (without CLIP)."""

    @property
    def by_clip(self) -> bool:
        """Whether CLIP looked at the photograph."""
        return self.source.startswith("clip")

    def sentence(self) -> str:
        """Returns it as evidence."""
        side = "above" if self.z >= 0 else "below"
        by = {"clip prompts": "CLIP", "clip head": "A CLIP head fitted on people's ratings"}.get(
            self.source, "A head fitted on people's ratings"
        )
        return f"{by} places it {abs(self.z):.1f} standard deviations {side} the median."


@dataclass(frozen=True)
class DimensionScore:
    """One dimension of one photograph."""

    score: float
    """0-10."""
    confidence: float
    """0-1."""
    evidence: tuple[str, ...]
    """Sentences, the most telling first; at least one."""
    advice: str
    """What to try."""
    values: dict[str, float]
    """Sub-measures by name, in the units of the dimension."""
    second: Opinion | None = None
    """What CLIP or a head said beside the measures; None where the score is the measures' alone."""


@dataclass(frozen=True)
class Scores:
    """All eight of one photograph, in the order of DIMENSIONS."""

    dimensions: tuple[DimensionScore, ...]
    color_weight: float
    """0-1: how far the photograph is in colour."""
    border: float = 0.0
    """The share of the file's area, 0-1, that is a border, and was not judged."""

    @property
    def monochrome(self) -> bool:
        """Whether it counts as monochrome."""
        return self.color_weight < 0.5

    @property
    def values(self) -> Floats:
        """The eight scores [8]."""
        return np.array([dimension.score for dimension in self.dimensions])

    @property
    def overall(self) -> float:
        """The mean of the eight, weighted by confidence, 0-10; the plain mean where nothing is trusted."""
        weights = np.array([dimension.confidence for dimension in self.dimensions])
        if weights.sum() <= 0:
            return float(self.values.mean())
        return float(np.average(self.values, weights=weights))


def grade(overall: float) -> str:
    """Returns the grade of an overall score: steps of half a point from A+ at 7.5 to C- at 3.5, D from 2.5, else F."""
    return next((name for least, name in GRADES if overall >= least), "F")


class Scorer:
    """Scores batches of pictures."""

    def __init__(
        self,
        calibration: Calibration,
        device: torch.device | str = "cpu",
        learned: Learned | None = None,
        backbone: Backbone | None = None,
    ) -> None:
        """Takes what is learned with the backbone that it was learned with.

        Raises:
            ConfigurationError: the two do not belong together.
        """
        if learned is not None:
            learned.check(backbone)
        self._calibration = calibration
        self._device = torch.device(device)
        self._learned = learned
        self._backbone = backbone

    @property
    def id(self) -> str:
        """Measures and calibration, as "signal@id", "signal+clip@id" or "signal+heads@id": scores compare only where it
        is equal.
        """
        if self._learned is None:
            return f"signal@{self._calibration.id}"
        digest = hashlib.sha256(f"{self._calibration.id} {self._learned.digest()}".encode()).hexdigest()[:12]
        return f"signal+{'clip' if self._backbone is not None else 'heads'}@{digest}"

    def score(self, pictures: Sequence[Picture]) -> list[Scores]:
        """Returns the scores of pictures that all have the same shape, in their order."""
        raw, strength, color_weight, values = measure(pictures, self._device)
        z = self._calibration.z(raw, color_weight)
        opinions: list[list[Opinion | None]] = [[None] * len(DIMENSIONS) for _ in pictures]
        if self._learned is not None:
            embeddings = self._backbone.embed([picture.pixels for picture in pictures]) if self._backbone else None
            second = self._learned.second(features(raw, values), embeddings, color_weight)
            z, trust = second.blend(z)
            strength = strength * trust
            for i, d in np.argwhere(second.weight > 0):
                opinions[i][d] = Opinion(float(second.z[i, d]), second.sources[d])
        scores = calibrations.score(z)
        return [
            Scores(
                tuple(
                    DimensionScore(
                        score=float(scores[i, d]),
                        confidence=float(dimension.prior * strength[i, d] * picture.resolution),
                        evidence=evidence(dimension, values[i][d], opinions[i][d]),
                        advice=dimension.advice(values[i][d]),
                        values=values[i][d],
                        second=opinions[i][d],
                    )
                    for d, dimension in enumerate(DIMENSIONS)
                ),
                float(color_weight[i]),
                picture.border,
            )
            for i, picture in enumerate(pictures)
        ]


def evidence(dimension: Dimension, values: Mapping[str, float], second: Opinion | None) -> tuple[str, ...]:
    """Returns what was seen of a dimension, the most telling first, what CLIP or a head says last."""
    return (*dimension.evidence(values), *([second.sentence()] if second else []))


def measure(
    pictures: Sequence[Picture], device: torch.device | str = "cpu"
) -> tuple[Floats, Floats, Floats, list[list[dict[str, float]]]]:
    """Returns raw values [B, 8], strengths [B, 8], colour weights [B], and the sub-measures by picture and dimension.

    All pictures must have the same shape.
    """
    with torch.inference_mode():
        scene = Scene.of([picture.pixels for picture in pictures], device)
        measured = [dimension.measure(scene) for dimension in DIMENSIONS]
        raw = torch.stack([m.raw for m in measured], 1).cpu().double().numpy()
        strength = torch.stack([m.strength for m in measured], 1).cpu().double().numpy()
        color_weight = scene.color_weight.cpu().double().numpy()
        columns = [{name: value.cpu().tolist() for name, value in m.values.items()} for m in measured]
    values = [[{name: value[i] for name, value in column.items()} for column in columns] for i in range(len(pictures))]
    return raw, strength, color_weight, values
