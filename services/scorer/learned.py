"""What is learned beside the measures: CLIP's prompt tables and linear heads, and how they are blended.

A head is a ridge from a photograph's measures and CLIP embedding to people's ratings of one dimension; a prompt table
calibrates CLIP-IQA's prompt pairs. Either gives a second z value beside the calibrated measures', and both are blended:

    z = ((1 - w) z_measures + w z_second) / sqrt((1 - w)^2 + w^2 + 2 w (1 - w) r)

with r their correlation over the photographs of the fit, so that one standard deviation stays 2.1 points. w is 0.75 for
a head and (1 - prior) / 2 for prompts: the less measures can know of a dimension, the more CLIP is asked. Where people
rated a dimension, a head or the prompts are kept only if their ratings prefer the blend to the measures alone. Harmony
of colours is not asked of a monochrome photograph, and nothing of CLIP of focus_sharpness. Disagreement lowers the
confidence, by 1 / (1 + w (1 - w) d^2) where the two z values are d apart.

`learned_file` keeps all of it in one safetensors file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.core.errors import ConfigurationError
from services.scorer import prompts
from services.scorer.calibration import Floats, interpolate
from services.scorer.clip import Backbone, Matrix, fixed_picture
from services.scorer.dimensions import DIMENSIONS, NAMES

FEATURES: Final = (
    *(f"{name}.raw" for name in NAMES),
    *(f"{dimension.name}.{unit}" for dimension in DIMENSIONS for unit in dimension.units),
)
"""What heads read of the measures: the raw values, then every sub-measure."""
HEAD_WEIGHT: Final = 0.75
PROMPT_WEIGHTS: Final = np.array(
    [(1 - dimension.prior) / 2 if dimension.name in prompts.PAIRS else 0.0 for dimension in DIMENSIONS]
)
"""[8]: w of the prompt pairs."""

_SAME: Final = 0.995
"""Least cosine of the fixed picture's embedding: bfloat16 stays above it, another preparation does not."""
_LIMIT: Final = 4.0
"""Standard deviations beyond which a measure counts no further in a head."""


@dataclass(frozen=True)
class Heads:
    """A ridge a dimension."""

    weight: Floats
    """[8]: w, HEAD_WEIGHT where ratings preferred the head, else 0."""
    center: Floats
    """[S]: mean of each feature of the measures over the photographs of the fit."""
    deviation: Floats
    """[S]: its standard deviation, above 0."""
    measures: Floats
    """[8, S]: weights of the standardised features."""
    embedding: Floats
    """[8, D]: weights of the embedding; D is 0 without a backbone."""
    bias: Floats
    """[8]."""
    knots: Floats
    """[len(LEVELS), 8]: calibration of what the heads say."""
    agreement: Floats
    """[8]: correlation with the calibrated measures' z."""

    def raw(self, features: Floats, embeddings: Matrix | None) -> Floats:
        """Returns predictions [B, 8] of features [B, S] and embeddings [B, D]."""
        found = standardised(features, self.center, self.deviation) @ self.measures.T + self.bias
        return found if embeddings is None else found + embeddings.astype(np.float64) @ self.embedding.T


@dataclass(frozen=True)
class Prompts:
    """The calibrated prompt pairs of one backbone."""

    weight: Floats
    """[8]: w, PROMPT_WEIGHTS where nobody's ratings were against it, else 0."""
    directions: Matrix
    """[8, 3, D]: see prompts.directions."""
    knots: Floats
    """[len(LEVELS), 8]."""
    agreement: Floats
    """[8]: correlation with the calibrated measures' z."""


@dataclass(frozen=True)
class Second:
    """The second z values of a batch, by whom, and how much they weigh."""

    z: Floats
    """[B, 8]; 0 where the weight is 0."""
    weight: Floats
    """[B, 8], 0-1."""
    agreement: Floats
    """[8]."""
    sources: tuple[str, ...]
    """Of each dimension: "head", "clip head", "clip prompts"; empty where the measures are alone."""

    def blend(self, z: Floats) -> tuple[Floats, Floats]:
        """Returns the blended z values [B, 8] and the factors of the confidences [B, 8], 0-1, for the measures' z."""
        return blend(z, self.z, self.weight, self.agreement)


@dataclass(frozen=True)
class Learned:
    """All that a fit found; at least one of `heads` and `prompts` is there."""

    backbone: str
    """The backbone's sha256; empty where none was used."""
    fixed: Floats
    """[D]: the embedding of the fixed picture."""
    heads: Heads | None
    prompts: Prompts | None
    source: str
    """What it was fitted on, in a sentence."""

    def second(self, features: Floats, embeddings: Matrix | None, color_weight: Floats) -> Second:
        """Returns the second z values of photographs with these features [B, S], embeddings [B, D] and colour weights
        [B].
        """
        z, agreement = np.zeros((len(features), len(NAMES))), np.zeros(len(NAMES))
        weight = np.zeros_like(z)
        sources = [""] * len(NAMES)
        if self.prompts is not None and embeddings is not None:
            asked = interpolate(prompts.raw(self.prompts.directions, embeddings), self.prompts.knots)
            for d in np.flatnonzero(self.prompts.weight):
                z[:, d], weight[:, d], agreement[d] = asked[:, d], self.prompts.weight[d], self.prompts.agreement[d]
                sources[d] = "clip prompts"
            weight[:, NAMES.index("color_harmony")] *= color_weight
        if self.heads is not None:
            said = interpolate(self.heads.raw(features, embeddings), self.heads.knots)
            for d in np.flatnonzero(self.heads.weight):
                z[:, d], weight[:, d], agreement[d] = said[:, d], self.heads.weight[d], self.heads.agreement[d]
                sources[d] = "clip head" if self.heads.embedding[d].any() else "head"
        return Second(z, weight, agreement, tuple(sources))

    def digest(self) -> str:
        """Returns 64 hex digits over everything that a score depends on."""
        digest = hashlib.sha256(self.backbone.encode())
        for name, array in sorted(self.arrays().items()):
            digest.update(name.encode() + array.tobytes())
        return digest.hexdigest()

    def check(self, backbone: Backbone | None) -> None:
        """Does nothing where the backbone is the one of the fit.

        Raises:
            ConfigurationError: it is another, there is none, or it computes otherwise than it did.
        """
        if self.backbone and backbone is None:
            raise ConfigurationError(
                "The scorer's heads were fitted with a CLIP backbone: set MONDRIAN_SCORER_CLIP_PATH to its folder."
            )
        if backbone is None:
            return
        if backbone.sha256 != self.backbone:
            raise ConfigurationError(
                f"The scorer's heads belong to backbone {self.backbone[:12] or 'none'} and {backbone.name} is "
                f"{backbone.sha256[:12]}: fit them anew with python -m services.scorer.fit."
            )
        now = backbone.embed([fixed_picture()])[0]
        if now.shape != self.fixed.shape or not now @ self.fixed >= _SAME:
            raise ConfigurationError(
                f"{backbone.name} embeds the fixed picture otherwise than it did when the scorer's heads were fitted: "
                "fit them anew with python -m services.scorer.fit."
            )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns all numbers by name, in the precision in which they are stored."""
        found = {"fixed": self.fixed}
        for prefix, part in (("head", self.heads), ("prompt", self.prompts)):
            if part is not None:
                found.update({f"{prefix}.{name}": array for name, array in vars(part).items()})
        return {
            # Neighbouring knots may differ by less than single precision can express.
            name: np.ascontiguousarray(array, np.float64 if name.endswith("knots") else np.float32)
            for name, array in found.items()
        }


def blend(z: Floats, second: Floats, weight: Floats | float, agreement: Floats | float) -> tuple[Floats, Floats]:
    """Returns the blended z values and the factors of the confidences, 0-1; all arguments broadcast."""
    spread = np.sqrt((1 - weight) ** 2 + np.square(weight) + 2 * weight * (1 - weight) * agreement)
    return ((1 - weight) * z + weight * second) / spread, 1 / (1 + weight * (1 - weight) * (second - z) ** 2)


def features(raw: Floats, values: Sequence[Sequence[Mapping[str, float]]]) -> Floats:
    """Returns FEATURES [B, S] of what scoring.measure found."""
    rows = [
        [value[name] for value, dimension in zip(row, DIMENSIONS, strict=True) for name in dimension.units]
        for row in values
    ]
    return np.concatenate([raw, np.array(rows, np.float64).reshape(len(raw), -1)], axis=1)


def standardised(features: Floats, center: Floats, deviation: Floats) -> Floats:
    """Returns features in standard deviations from their mean, at most 4 of them."""
    return np.clip((features - center) / deviation, -_LIMIT, _LIMIT)
