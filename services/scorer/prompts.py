"""CLIP-IQA's antonym prompt pairs, three paraphrases a dimension (Wang, Chan and Loy 2023, "Exploring CLIP for
Assessing the Look and Feel of Images").

Of each pair the softmax at CLIP's own scale says how far the picture is the first rather than the second. Its log odds,
which never saturate, averaged over the paraphrases, are the raw value that a table of knots calibrates. focus_sharpness
has no pair: CLIP reads a picture at 224 px and cannot see focus, so it never drives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from services.scorer.calibration import Floats
from services.scorer.clip import Backbone, Matrix
from services.scorer.dimensions import NAMES

PAIRS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "composition": (
        ("a well composed photograph", "a badly composed photograph"),
        ("a photograph with a strong composition", "a photograph with a weak composition"),
        ("a carefully framed picture", "a carelessly framed picture"),
    ),
    "lighting": (
        ("a photograph in beautiful light", "a photograph in ugly light"),
        ("a well exposed photograph", "a badly exposed photograph"),
        ("a picture with rich tones", "a picture with dull tones"),
    ),
    "color_harmony": (
        ("a photograph with harmonious colors", "a photograph with clashing colors"),
        ("a picture whose colors go well together", "a picture whose colors do not go together"),
        ("a beautiful color palette", "an ugly color palette"),
    ),
    "subject_isolation": (
        ("a subject that stands out from a plain background", "a subject that is lost in a cluttered background"),
        ("a photograph of one clear subject", "a photograph of nothing in particular"),
        ("a picture with a clean background", "a picture with a messy background"),
    ),
    "depth_perspective": (
        ("a photograph with a strong sense of depth", "a flat photograph without depth"),
        ("a picture with foreground, middle ground and background", "a picture of a flat surface"),
        ("a view that leads into the distance", "a view that ends at a wall"),
    ),
    "visual_balance": (
        ("a balanced photograph", "an unbalanced photograph"),
        ("a picture that is visually stable", "a picture that tips to one side"),
        ("a photograph in equilibrium", "a lopsided photograph"),
    ),
    "emotional_impact": (
        ("a moving photograph full of emotion", "a boring photograph without emotion"),
        ("a dramatic picture", "a dull picture"),
        ("a photograph that one remembers", "a photograph that one forgets"),
    ),
}
"""Dimension -> pairs of what it is and what it is not."""

PARAPHRASES: Final = 3


def directions(backbone: Backbone) -> Matrix:
    """Returns what turns an embedding into log odds: [8, 3, dimensions], CLIP's scale times the difference of the two
    texts' embeddings; zeros for focus_sharpness.
    """
    found = {
        name: backbone.embed_texts([text for pair in pairs for text in pair]).reshape(PARAPHRASES, 2, -1)
        for name, pairs in PAIRS.items()
    }
    none = np.zeros_like(next(iter(found.values()))[:, 0])
    rows = [found[name][:, 0] - found[name][:, 1] if name in found else none for name in NAMES]
    return np.asarray(backbone.scale * np.stack(rows), np.float32)


def raw(directions: Matrix, embeddings: Matrix) -> Floats:
    """Returns the mean log odds over the paraphrases [B, 8] of embeddings [B, dimensions]."""
    odds = np.einsum("dkn,bn->bdk", directions.astype(np.float64), embeddings.astype(np.float64))
    return np.asarray(odds.mean(axis=2))
