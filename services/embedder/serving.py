"""What the embedder's servicer answers from: the encoder, the engine around it, the release it follows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from services.core.errors import NoRelease, NotReady
from services.core.images import ImageLimits
from services.core.releases import ReleaseStore, ReleaseWatcher
from services.core.settings import available_cpus
from services.embedder.encoder import Encoder, encoder_id
from services.embedder.engine import EmbeddingEngine
from services.embedder.references import References, load_references
from services.embedder.settings import EmbedderSettings


class Serving:
    """What the servicer answers from; nothing is there until `load` is done."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        self._engine: EmbeddingEngine | None = None
        self._watcher: ReleaseWatcher[References] | None = None

    async def load(self, make_encoder: Callable[[EmbedderSettings], Encoder]) -> None:
        """Loads the encoder, warms it up and loads the current release.

        Raises:
            ConfigurationError: the encoder or the release cannot be used.
        """
        settings = self._settings
        encoder = await asyncio.to_thread(make_encoder, settings)
        engine = EmbeddingEngine(
            encoder,
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
            decode_threads=settings.decode_threads or available_cpus(),
            cache_entries=settings.cache_entries,
            limits=ImageLimits.of(settings),
        )
        watcher = ReleaseWatcher(
            ReleaseStore(settings.releases_root),
            lambda release: load_references(
                release,
                space_id=encoder.space_id,
                encoder_name=encoder.name,
                dimensions=encoder.dimensions,
            ),
            poll_s=settings.poll_s,
            verify_s=settings.verify_s,
        )
        try:
            await engine.warm_up()
            await watcher.start()
        except BaseException:
            await engine.close()
            raise
        self._engine, self._watcher = engine, watcher

    async def close(self) -> None:
        """Gives everything back."""
        if self._watcher is not None:
            await self._watcher.stop()
        if self._engine is not None:
            await self._engine.close()

    @property
    def alive(self) -> bool:
        """Whether the model's thread runs, or is not needed yet."""
        return self._engine is None or self._engine.alive

    @property
    def ready(self) -> bool:
        """Whether the encoder is loaded and its thread runs."""
        return self._engine is not None and self._engine.alive

    @property
    def max_batch(self) -> int:
        """The greatest number of photographs that one request may hold: what the encoder runs at once."""
        return self._settings.max_batch

    def engine(self) -> EmbeddingEngine:
        """Returns the engine.

        Raises:
            NotReady: it is still being loaded.
        """
        if self._engine is None:
            raise NotReady("The encoder is still being loaded; try again in a few seconds.")
        return self._engine

    @property
    def encoder_id(self) -> str:
        """The encoder as replies name it."""
        return encoder_id(self.engine().encoder)

    @property
    def dimensions(self) -> int:
        """The length of an embedding."""
        return self.engine().encoder.dimensions

    def references(self) -> References:
        """Returns the references of the release that is served now.

        Raises:
            NotReady: the service is still being loaded.
            NoRelease: nothing has been pre-computed yet.
        """
        if self._watcher is None:
            raise NotReady("The references are still being loaded; try again in a few seconds.")
        return self._watcher.value

    def references_or_none(self) -> References | None:
        """Returns what `references` returns, None where nothing has been pre-computed yet."""
        with contextlib.suppress(NoRelease, NotReady):
            return self.references()
        return None

    async def refresh(self) -> bool:
        """Looks for a new release now and returns whether one is served."""
        return self._watcher is not None and await self._watcher.refresh()
