"""What the scorer's servicer answers from: the calibrated measures and the references of the release that is served."""

from __future__ import annotations

import asyncio

from services.core.batching import serving
from services.core.errors import ConfigurationError
from services.core.models.devices import prepare_device
from services.scorer import learned_file
from services.scorer.calibration import DEFAULT_PATH, Calibration
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
    calibration = Calibration.load(settings.calibration_path or DEFAULT_PATH)
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


class Serving(serving.Serving[ScoringEngine, Library]):
    """The engine around the measures, and the advisors' references."""

    def __init__(self, settings: ScorerSettings) -> None:
        super().__init__()
        self._settings = settings

    async def load(self) -> None:
        """Loads the calibration, measures a first picture and loads the current release.

        Raises:
            ConfigurationError: the device, the calibration or the release cannot be used.
        """
        scorer = await asyncio.to_thread(load_scorer, self._settings)
        await self.begin(
            ScoringEngine(scorer, self._settings, self.scores_of),
            self._settings,
            lambda release: load_library(release, scorer.id),
        )

    def scores_of(self, photograph_id: str) -> Scores | None:
        """Returns the scores of a photograph that is a reference of the release; None where it is not."""
        library = self.release_or_none()
        return library.scores_of(photograph_id) if library else None
