"""Settings of the critic: environment variables MONDRIAN_CRITIC_*, or MONDRIAN_* for all services."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import ByteSize, Field, field_validator
from pydantic_settings import NoDecode

from services.core.settings import MINI_DIR, ModelSettings, read_from


class CriticSettings(ModelSettings):
    """What the critic can be told. `max_batch` is the number of critiques that are written at once."""

    model_config = read_from("MONDRIAN_CRITIC_")
    unread = frozenset({"data_dir"})

    port: int = Field(default=50052, ge=0, le=65535)
    """The port to listen on; 0 takes a free one."""
    max_batch: int = Field(default=8, ge=1, le=256)
    """Critiques written at once; each has a slot of the key-value cache."""
    max_queue: int = Field(default=64, ge=1)
    """Requests that wait for a slot; one more is refused with RESOURCE_EXHAUSTED."""
    model_path: Path | None = None
    """The folder of the Qwen3-VL (config.json, safetensors, tokenizer); unset takes the profile's."""
    model_name: str | None = None
    """What replies call the model, and adapters name as their base; unset takes the profile's."""
    adapters_dir: Path | None = None
    """The folder with one adapter folder an advisor; unset takes the profile's."""
    adapters_poll_s: float = Field(default=2.0, gt=0)
    """Seconds between two looks at the adapters' folder."""
    adapters_pinned: Annotated[frozenset[str], NoDecode] = frozenset()
    """Advisors, divided by commas, whose adapters never make room for others."""
    adapters_max_loaded: int = Field(default=16, ge=1, le=256)
    """The greatest number of adapters in memory at once; the least recently used makes room."""
    adapters_max_bytes: ByteSize = ByteSize(2 * 1024**3)
    """The greatest size of the adapters in memory together, in bytes."""
    adapter_max_rank: int = Field(default=64, ge=1, le=1024)
    """The greatest rank that an adapter may have."""
    max_context_tokens: int = Field(default=2048, ge=64)
    """Tokens of prompt, photograph and critique together that a slot holds."""
    max_image_tokens: int = Field(default=1024, ge=1)
    """Tokens that a photograph may take; it is read at the size that fits."""
    default_tokens: int = Field(default=256, ge=1)
    """Tokens of a critique whose request names no limit."""
    max_tokens: int = Field(default=1024, ge=1)
    """The greatest limit of tokens that a request may name."""
    default_timeout_s: float = Field(default=120.0, gt=0)
    """Seconds that a request without a deadline may take."""
    prefill_tokens: int = Field(default=4096, ge=1)
    """Tokens of prompts that are read in one turn, so that reading does not stall writing."""
    vision_cache_bytes: ByteSize = ByteSize(256 * 1024**2)
    """Memory for photographs that were seen lately, so that they need not be read again."""
    cuda_graphs: bool = False
    """Whether the steps of writing run as CUDA graphs, which a large model on a GPU needs to be fast."""
    preparing_threads: int = Field(default=0, ge=0)
    """Threads that decode and prepare photographs; 0 means one for each CPU the process may use."""

    @field_validator("adapters_pinned", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return frozenset(filter(None, value.replace(" ", "").split(","))) if isinstance(value, str) else value

    @property
    def model_folder(self) -> Path:
        """The folder of the weights."""
        if self.model_path is not None:
            return self.model_path
        return MINI_DIR / "models" / "vlm" if self.profile == "mini" else self.models_dir / "Qwen3-VL-4B-Instruct"

    @property
    def served_name(self) -> str:
        """The base model's name."""
        if self.model_name is not None:
            return self.model_name
        if self.model_path is not None:
            return self.model_path.name
        return "mondrian-mini-vlm" if self.profile == "mini" else "Qwen/Qwen3-VL-4B-Instruct"

    @property
    def adapters_folder(self) -> Path:
        """The folder of the adapters."""
        if self.adapters_dir is not None:
            return self.adapters_dir
        return (MINI_DIR if self.profile == "mini" else self.models_dir) / "adapters"
