"""What the embedder's servicers answer from: an encoder and the references of the release that is served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.core.batching import serving
from services.embedder.encoder import Encoder, Vector, encoder_id
from services.embedder.engine import EmbeddingEngine
from services.embedder.references import References, load_references
from services.embedder.settings import EmbedderSettings


class Serving(serving.Serving[EmbeddingEngine, References]):
    """The engine around the encoder, and the references."""

    def __init__(self, settings: EmbedderSettings) -> None:
        super().__init__()
        self._settings = settings

    async def load(self, make_encoder: Callable[[EmbedderSettings], Encoder]) -> None:
        """Loads the encoder, warms it up and loads the current release.

        Raises:
            ConfigurationError: the encoder or the release cannot be used.
        """
        encoder = await asyncio.to_thread(make_encoder, self._settings)
        await self.begin(
            EmbeddingEngine(encoder, self._settings, self.embedding_of),
            self._settings,
            lambda release: load_references(
                release,
                space_id=encoder.space_id,
                encoder_name=encoder.name,
                dimensions=encoder.dimensions,
            ),
        )

    def embedding_of(self, photograph_id: str) -> Vector | None:
        """Returns the embedding of a photograph that is a reference; None where it is not."""
        references = self.release_or_none()
        return references.embedding_of(photograph_id) if references else None

    @property
    def ready(self) -> bool:
        """Whether the encoder is loaded and its thread runs."""
        return self._engine is not None and self._engine.alive

    @property
    def max_batch(self) -> int:
        """The greatest number of photographs that one request may hold: what the encoder runs at once."""
        return self._settings.max_batch

    @property
    def encoder_id(self) -> str:
        """The encoder as replies name it."""
        return encoder_id(self.engine().encoder)

    @property
    def dimensions(self) -> int:
        """The length of an embedding."""
        return self.engine().encoder.dimensions
