"""Settings of the scorer: environment variables MONDRIAN_SCORER_*, or MONDRIAN_* for all services."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.core.images import ImageLimits
from services.core.settings import ModelSettings, service_config


class ScorerSettings(ModelSettings):
    """What the scorer, and its precompute, can be told."""

    model_config = service_config("MONDRIAN_SCORER_")

    port: int = Field(default=50053, ge=0, le=65535)
    """The port to listen on; 0 takes a free one."""
    max_batch: int = Field(default=8, ge=1, le=1024)
    """The greatest number of photographs measured at once; beyond 8 a CPU gains nothing, a GPU does up to 64."""
    torch_threads: int = Field(default=1, ge=0)
    """Threads of the arithmetic on a CPU, 0 for all: the measures are thousands of small operations, in which a second
    thread waits more than it works; decoding uses the other cores."""
    decode_threads: int = Field(default=0, ge=0)
    """Threads that decode photographs beside the measures; 0 means one for each CPU the process may use."""
    cache_entries: int = Field(default=2_000, ge=0)
    """How many photographs are remembered with their scores, about 8 KB each."""
    calibration_path: Path | None = None
    """A calibration that `python -m services.scorer.calibrate` wrote; unset takes the one that is shipped."""
    clip_path: Path | None = None
    """An open_clip folder (open_clip_config.json, open_clip_model.safetensors) that is asked beside the measures; unset
    scores by measured properties alone."""
    heads_path: Path | None = None
    """What `python -m services.scorer.fit` wrote; unset takes scorer_heads.safetensors in clip_path where that is set,
    else none."""
    poll_s: float = Field(default=1.0, gt=0)
    """Seconds between two looks for a new release."""
    verify_s: float = Field(default=3600.0, ge=0)
    """Seconds between two comparisons of every byte of the served release with what was published; 0 for never."""
    keep_releases: int = Field(default=5, ge=0)
    """How many older releases precompute leaves to roll back to."""

    @property
    def heads_file(self) -> Path | None:
        """The file of heads and prompt tables; None where scores are the measures' alone."""
        if self.heads_path is None and self.clip_path is not None:
            return self.clip_path / "scorer_heads.safetensors"
        return self.heads_path

    @property
    def releases_root(self) -> Path:
        """The root of the scorer's releases."""
        return self.data_dir / "scorer"

    @property
    def image_limits(self) -> ImageLimits:
        """What a photograph may cost."""
        return ImageLimits(max_bytes=int(self.max_image_bytes), max_pixels=self.max_image_pixels)
