"""The scorer that the settings ask for."""

from __future__ import annotations

from services.core.errors import ConfigurationError
from services.core.models.devices import prepare_device
from services.scorer import learned_file
from services.scorer.calibration import DEFAULT_PATH, Calibration
from services.scorer.clip import load_backbone
from services.scorer.scoring import Scorer
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
