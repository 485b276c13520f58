"""What the embedder asks of an encoder; `clip.py` is the one that open_clip provides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.core.images.reading import DEFAULT_LIMITS, ImageLimits

Pixels = npt.NDArray[np.uint8]
"""One photograph as the image tower takes it: uint8, [height, width, 3], red first, not yet normalised."""
Vector = npt.NDArray[np.float32]
"""One embedding: float32, [dimensions], Euclidean length 1."""
Matrix = npt.NDArray[np.float32]
"""Several embeddings: float32, [n, dimensions], each of length 1."""
Tokens = npt.NDArray[np.int64]
"""One text: int64, [context length], padded with zeros."""


class Encoder(Protocol):
    """A two-tower encoder: photographs and texts become points of one space.

    Preparing (`photograph`, `pixels`, `tokenize`) may be called from many threads at once and needs no accelerator;
    `forward_images` and `forward_texts` are called from one thread.
    """

    @property
    def name(self) -> str:
        """What a person calls it."""

    @property
    def space_id(self) -> str:
        """16 hex characters that change with the weights, the preprocessing and the dtype: embeddings of two
        spaces are never compared."""

    @property
    def dimensions(self) -> int:
        """The length of an embedding."""

    def photograph(self, content: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
        """Returns the decoded photograph: upright, sRGB, at least as large as `pixels` needs.

        Raises:
            InvalidImage: the bytes are not a photograph within the limits.
        """

    def pixels(self, photograph: Image.Image) -> Pixels:
        """Returns the image tower's input: uint8, [height, width, 3]."""

    def tokenize(self, text: str) -> Tokens:
        """Returns the text tower's input; what exceeds the context length is cut off."""

    def forward_images(self, batch: Sequence[Pixels]) -> Matrix:
        """Returns the embeddings of a batch of 1 and more, in its order."""

    def forward_texts(self, batch: Sequence[Tokens]) -> Matrix:
        """Returns the embeddings of a batch of 1 and more, in its order."""


def encoder_id(encoder: Encoder) -> str:
    """Returns what replies name the encoder by: "name@space"."""
    return f"{encoder.name}@{encoder.space_id}"
