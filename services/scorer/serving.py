"""What the scorer's servicer answers from: the calibrated measures, the engine around them, the release it follows."""

from __future__ import annotations

import asyncio

from services.core.devices import prepare_device
from services.core.errors import ConfigurationError, NoRelease, NotReady
from services.core.images import ImageLimits
from services.core.releases import ReleaseStore, ReleaseWatcher
from services.core.settings import available_cpus
from services.scorer import learned_file
from services.scorer.calibration import DEFAULT_PATH, Calibration, CalibrationError
from services.scorer.clip import load_backbone
from services.scorer.engine import ScoringEngine
from services.scorer.references import Library, load_library
from services.scorer.scoring import Scorer, Scores
from services.scorer.settings import ScorerSettings


def load_scorer(settings: ScorerSettings) -> Scorer:
    """Returns the scorer that the settings describe.

    Raises:
        ConfigurationError: the device is not there, or the calibration, the CLIP model or the heads cannot be used.
    """
    device, dtype = prepare_device(settings)
    try:
        calibration = Calibration.load(settings.calibration_path or DEFAULT_PATH)
    except CalibrationError as error:
        raise ConfigurationError(str(error)) from error
    heads = settings.heads_file
    if heads is None:
        return Scorer(calibration, device)
    backbone = load_backbone(settings.clip_path, device, dtype) if settings.clip_path else None
    if not heads.is_file():
        raise ConfigurationError(
            f"{heads} does not exist: fit it with python -m services.scorer.fit --photos DIR"
            f"{f' --clip-path {settings.clip_path}' if settings.clip_path else ' --ratings FILE.csv'} --out {heads}."
        )
    return Scorer(calibration, device, learned_file.read(heads), backbone)


class Serving:
    """What the servicer answers from; nothing is there until `load` is done."""

    def __init__(self, settings: ScorerSettings) -> None:
        self._settings = settings
        self._engine: ScoringEngine | None = None
        self._watcher: ReleaseWatcher[Library] | None = None

    async def load(self) -> None:
        """Loads the calibration, measures a first picture and loads the current release.

        Raises:
            ConfigurationError: the device, the calibration or the release cannot be used.
        """
        settings = self._settings
        scorer = await asyncio.to_thread(load_scorer, settings)
        engine = ScoringEngine(
            scorer,
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
            decode_threads=settings.decode_threads or available_cpus(),
            cache_entries=settings.cache_entries,
            limits=ImageLimits.of(settings),
        )
        watcher = ReleaseWatcher(
            ReleaseStore(settings.releases_root),
            lambda release: load_library(release, scorer.id),
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

    @property
    def alive(self) -> bool:
        """Whether the thread of the measures runs, or is not needed yet."""
        return self._engine is None or self._engine.alive

    async def close(self) -> None:
        """Gives everything back."""
        if self._watcher is not None:
            await self._watcher.stop()
        if self._engine is not None:
            await self._engine.close()

    async def refresh(self) -> bool:
        """Looks for a new release now and returns whether another one is served."""
        return self._watcher is not None and await self._watcher.refresh()

    def engine(self) -> ScoringEngine:
        """Returns the engine.

        Raises:
            NotReady: the measures have not run yet.
        """
        if self._engine is None:
            raise NotReady("The scorer is still starting; try again in a few seconds.")
        return self._engine

    def library(self) -> Library:
        """Returns the advisors of the release that is served now.

        Raises:
            NotReady: the service is still starting.
            NoRelease: nothing has been pre-computed yet.
        """
        if self._watcher is None:
            raise NotReady("The references are still being loaded; try again in a few seconds.")
        return self._watcher.value

    def scores_of(self, photograph_id: str) -> Scores | None:
        """Returns the scores of a photograph that is a reference of the release; None where it is not."""
        try:
            return self.library().scores_of(photograph_id)
        except (NoRelease, NotReady):
            return None
