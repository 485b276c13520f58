"""How well one engine reproduces another's embeddings: measured on pictures drawn for it, and compared with a bound."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from PIL import Image

from services.embedder.encoder import Matrix, Pixels

NEAREST: Final = 10
_PICTURES: Final = 64


@dataclass(frozen=True)
class Fidelity:
    """How like two engines' embeddings of the same pictures are; 1 throughout is the same."""

    cosine: float
    """The least cosine between the two embeddings of a picture, -1 to 1."""
    centred_cosine: float
    """The same after each engine's mean embedding is subtracted: what all pictures have in common does not count."""
    nearest: float
    """The share of a picture's ten nearest that both engines agree on, the mean of all pictures, 0 to 1."""

    def shortfalls(self) -> list[str]:
        """Returns the measures that lie below the bound, each as "centred cosine 0.9 (at least 0.998)"."""
        found, least = asdict(self), asdict(BOUND)
        return [
            f"{name.replace('_', ' ')} {found[name]:.4f} (at least {least[name]:g})"
            for name in found
            # NaN is not at least anything.
            if not found[name] >= least[name]
        ]

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value:.5f}" for name, value in asdict(self).items())


BOUND: Final = Fidelity(cosine=0.999, centred_cosine=0.998, nearest=0.97)
"""bfloat16 against float32 stays well above it, 8-bit weights fall below it."""


def measure(wanted: Matrix, found: Matrix) -> Fidelity:
    """Returns how well `found` keeps `wanted`: embeddings of the same 11 pictures or more by two engines, [n, d].

    Not at all where they differ in length: a kept export of another model.
    """
    if found.shape != wanted.shape:
        return Fidelity(cosine=0.0, centred_cosine=0.0, nearest=0.0)
    agreed = [
        len(np.intersect1d(mine, theirs)) / NEAREST
        for mine, theirs in zip(_nearest(wanted), _nearest(found), strict=True)
    ]
    return Fidelity(
        cosine=float((wanted * found).sum(axis=1).min()),
        centred_cosine=float((_centred(wanted) * _centred(found)).sum(axis=1).min()),
        nearest=float(np.mean(agreed)),
    )


def pictures(height: int, width: int) -> list[Pixels]:
    """Returns the pictures that are measured with, the same in every process: patches of colour, coarse to fine."""
    generator = np.random.default_rng(0)
    made = []
    for _ in range(_PICTURES):
        side = int(2 ** generator.uniform(1, 7))
        ground = generator.normal(128, 64, 3)
        patches = ground + generator.normal(0, 60, (side, side, 1)) + generator.normal(0, 25, (side, side, 3))
        image = Image.fromarray(np.clip(patches, 0, 255).astype(np.uint8))
        made.append(np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)))
    return made


def _centred(rows: Matrix) -> Matrix:
    moved = rows - rows.mean(axis=0)
    unit: Matrix = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return unit


def _nearest(rows: Matrix) -> np.ndarray:
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1)[:, :NEAREST]
