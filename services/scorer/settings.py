"""Settings of the scorer: environment variables MONDRIAN_SCORER_*, or MONDRIAN_* for all services."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.core.settings import ReferenceSettings, read_from


class ScorerSettings(ReferenceSettings):
    """What the scorer, and its precompute, can be told."""

    model_config = read_from("MONDRIAN_SCORER_")
    unread = frozenset({"profile", "models_dir"})

    port: int = Field(default=50053, ge=0, le=65535)
    """The port to listen on; 0 takes a free one."""
    max_batch: int = Field(default=8, ge=1, le=1024)
    """The greatest number of photographs measured at once; beyond 8 a CPU gains nothing, a GPU does up to 64."""
    torch_threads: int = Field(default=1, ge=0)
    """Threads of the arithmetic on a CPU, 0 for all: the measures are thousands of small operations, in which a second
    thread waits more than it works; decoding uses the other cores."""
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

    @property
    def heads_file(self) -> Path | None:
        """The file of heads and prompt tables; None where scores are the measures' alone."""
        if self.heads_path is None and self.clip_path is not None:
            return self.clip_path / "scorer_heads.safetensors"
        return self.heads_path
