"""The model that the settings ask for, and how much its engine is to take on."""

from __future__ import annotations

from typing import Final

import torch

from services.core.errors import ConfigurationError
from services.core.models.devices import prepare_device
from services.critic import model as models
from services.critic.checkpoint import model_files
from services.critic.model import VisionLanguageModel
from services.critic.settings import CriticSettings
from services.critic.writer import EngineOptions

# Below this, bfloat16 saves no time on a CPU, and float32 writes the same words whatever is written beside them.
_SMALL_WEIGHTS: Final = 256 * 1024**2


def load_model(settings: CriticSettings) -> VisionLanguageModel:
    """Returns the model that the settings name, on their device. Raises `ConfigurationError`."""
    files = model_files(settings.model_folder)
    device, dtype = prepare_device(settings)
    if settings.cuda_graphs and device.type != "cuda":
        raise ConfigurationError(
            "MONDRIAN_CRITIC_CUDA_GRAPHS is on and the critic runs on the CPU: give it a GPU, or turn the graphs off."
        )
    small = sum(path.stat().st_size for path in files) <= _SMALL_WEIGHTS
    if settings.dtype == "auto" and device.type == "cpu" and small:
        dtype = torch.float32
    return models.load(
        settings.model_folder,
        device=device,
        dtype=dtype,
        name=settings.served_name,
        max_image_tokens=settings.max_image_tokens,
    )


def engine_options(settings: CriticSettings) -> EngineOptions:
    """Returns how much the engine is to take on."""
    return EngineOptions(
        slots=settings.max_batch,
        max_tokens=settings.max_context_tokens,
        max_queue=settings.max_queue,
        prefill_tokens=settings.prefill_tokens,
        vision_cache_bytes=int(settings.vision_cache_bytes),
    )
