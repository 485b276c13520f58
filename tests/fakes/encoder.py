"""An encoder without a model: the same protocol, embeddings that follow from the pixels, and a count of its work."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

import numpy as np
from PIL import Image

from services.core.images.reading import DEFAULT_LIMITS, ImageLimits, decode
from services.embedder.encoder import Matrix, Pixels, Tokens

SIDE = 8


class FakeEncoder:
    """Projects 8 x 8 pixels, or the letters of a text, into a small space: near pictures are near there too."""

    def __init__(self, *, dimensions: int = 32, space_id: str = "fake0000fake0000") -> None:
        self.name = "fake"
        self.space_id = space_id
        self.dimensions = dimensions
        seed = int.from_bytes(hashlib.sha256(space_id.encode()).digest()[:4], "big")
        self._projection = np.random.default_rng(seed).normal(size=(SIDE * SIDE * 3, dimensions))
        self.batches: list[int] = []
        """The sizes of the batches of photographs that were run."""
        self.gate = threading.Event()
        """Cleared, it holds every batch until it is set again."""
        self.gate.set()
        self.began = threading.Semaphore(0)
        """Released each time a batch begins."""
        self.prepared = threading.Semaphore(0)
        """Released each time a photograph is about to be ready for a batch."""
        self.failure: BaseException | None = None
        """Raised instead of an answer, once."""

    def photograph(self, content: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
        """See Encoder."""
        return decode(content, short_side=SIDE, limits=limits)

    def pixels(self, photograph: Image.Image) -> Pixels:
        """See Encoder."""
        self.prepared.release()
        return np.asarray(photograph.resize((SIDE, SIDE), Image.Resampling.BOX))

    def tokenize(self, text: str) -> Tokens:
        """See Encoder."""
        tokens = np.zeros(77, np.int64)
        letters = [ord(letter) for letter in text[:77]]
        tokens[: len(letters)] = letters
        return tokens

    def forward_images(self, batch: Sequence[Pixels]) -> Matrix:
        """See Encoder."""
        self.began.release()
        self.gate.wait(120)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.batches.append(len(batch))
        # Around the middle grey, so that directions differ.
        flat = np.stack([pixels.reshape(-1) for pixels in batch]).astype(np.float64) - 127.3
        return _unit(flat @ self._projection)

    def forward_texts(self, batch: Sequence[Tokens]) -> Matrix:
        """See Encoder."""
        self.began.release()
        self.gate.wait(120)
        letters = np.stack(batch).astype(np.float64)
        return _unit(np.sin(letters @ np.arange(1, 78)[:, None] * np.arange(1, self.dimensions + 1)))


def _unit(vectors: np.ndarray) -> Matrix:
    unit: Matrix = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit
