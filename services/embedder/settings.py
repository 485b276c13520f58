"""Settings of the embedder: environment variables MONDRIAN_EMBEDDER_*, or MONDRIAN_* for all services."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from services.core.settings import MINI_DIR, ReferenceSettings, read_from


class EmbedderSettings(ReferenceSettings):
    """What the embedder, and its precompute, can be told."""

    model_config = read_from("MONDRIAN_EMBEDDER_")

    port: int = Field(default=50051, ge=0, le=65535)
    """The port to listen on; 0 takes a free one."""
    model_path: Path | None = None
    """The open_clip folder (open_clip_config.json, open_clip_model.safetensors); unset takes the profile's."""
    engine: Literal["torch", "openvino"] = "torch"
    """What runs the image tower; `openvino` (extra embedder-cpu) is faster on CPUs, in a space of its own."""
    engine_cache_dir: Path | None = None
    """The folder that keeps what was exported for OpenVINO; unset takes `engines` in data_dir. May be removed."""
    index: Literal["auto", "exact", "hnsw"] = "auto"
    """How precompute has references searched: `auto` (by whichever it measures to be better), `exact` or `hnsw`."""

    @field_validator("engine")
    @classmethod
    def _is_installed(cls, engine: str) -> str:
        if engine != "torch" and importlib.util.find_spec(engine) is None:
            raise ValueError(f"{engine} is not installed: pip install -c deploy/constraints.txt '.[embedder-cpu]'")
        return engine

    @property
    def engine_cache(self) -> Path:
        """The folder that keeps what was exported."""
        return self.engine_cache_dir or self.data_dir / "engines"

    @property
    def encoder_folder(self) -> Path:
        """The folder of the weights."""
        if self.model_path is not None:
            return self.model_path
        return MINI_DIR / "models" / "clip" if self.profile == "mini" else self.models_dir / "ViT-B-32"
