"""The encoder that the settings ask for. It imports torch when called: a server with another encoder needs none."""

from __future__ import annotations

import os
from typing import Final

from services.core.settings import available_cpus
from services.embedder.encoder import Encoder
from services.embedder.settings import EmbedderSettings

WAITING: Final = {"OMP_WAIT_POLICY": "passive"}
"""Lets torch's threads sleep while they wait for each other. By default they spin, and take the cores from decoding and
answering: a photograph cost 150 ms of CPU instead of 56."""


def load(settings: EmbedderSettings) -> Encoder:
    """Returns the encoder of the settings' folder on the settings' engine.

    Raises:
        ConfigurationError: it cannot be loaded, or the engine does not keep its embeddings well enough.
    """
    for name, value in WAITING.items():
        # Read when torch is imported, so in time here; what the operator has set is kept.
        os.environ.setdefault(name, value)
    from services.embedder.clip import load_encoder

    clip = load_encoder(settings)
    if settings.engine == "torch":
        return clip
    from services.embedder.openvino_encoder import load_openvino

    return load_openvino(clip, settings.engine_cache, settings.torch_threads or available_cpus())
