"""What a servicer answers from: the engine around a model, and what was loaded of the release that is served.

The components of services with both are made of it: of `services.core.rpc.server.Component`, a name, the servicers and
the start are theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from services.core.batching.engine import Engine
from services.core.errors import NoRelease, NotReady
from services.core.releases import Release, ReleaseStore, ReleaseWatcher
from services.core.settings import ReferenceSettings

E = TypeVar("E", bound=Engine[Any, Any])
V = TypeVar("V")


class Serving(Generic[E, V]):
    """Nothing is there until `begin` is done."""

    def __init__(self) -> None:
        self._engine: E | None = None
        self._watcher: ReleaseWatcher[V] | None = None

    async def begin(self, engine: E, settings: ReferenceSettings, load: Callable[[Release], V]) -> None:
        """Warms an engine up, loads the current release by `load`, and follows it from then on.

        Raises:
            ConfigurationError: the model or the release cannot be used; the engine is closed then.
        """
        store = ReleaseStore(settings.releases_root)
        watcher = ReleaseWatcher(store, load, poll_s=settings.poll_s, verify_s=settings.verify_s)
        try:
            await engine.warm_up()
            await watcher.start()
        except BaseException:
            await engine.close()
            raise
        self._engine, self._watcher = engine, watcher

    async def stop(self) -> None:
        """Gives everything back."""
        if self._watcher is not None:
            await self._watcher.stop()
        if self._engine is not None:
            await self._engine.close()

    def healthy(self) -> bool:
        """Whether the model's thread runs, or is not needed yet."""
        return self._engine is None or self._engine.alive

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and its thread runs."""
        return self._engine is not None and self._engine.alive

    def engine(self) -> E:
        """Returns the engine.

        Raises:
            NotReady: the model is still being loaded.
        """
        if self._engine is None:
            raise NotReady("The model is still being loaded; try again in a few seconds.")
        return self._engine

    def release(self) -> V:
        """Returns what was loaded of the release that is served now.

        Raises:
            NotReady: the model is still being loaded.
            NoRelease: nothing has been pre-computed yet.
        """
        if self._watcher is None:
            raise NotReady("The model is still being loaded; try again in a few seconds.")
        return self._watcher.value

    def release_or_none(self) -> V | None:
        """Returns what `release` returns, None where there is nothing yet."""
        with contextlib.suppress(NoRelease, NotReady):
            return self.release()
        return None

    async def refresh(self) -> bool:
        """Looks for a new release now and returns whether one is served."""
        return self._watcher is not None and await self._watcher.refresh()
