"""A tiny random Qwen3-VL, made once, and what transformers itself writes with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from services.critic import adapter_format
from services.critic import model as models
from services.critic.adapter_format import Base
from tests.fakes.critic import tiny_model_folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of one safetensors file."""
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny-qwen3-vl")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> models.VisionLanguageModel:
    """The model of `tiny_folder` in float32; more tokens end a text than usual, so that rows end early."""
    torch.set_num_threads(1)
    model = models.load(tiny_folder, device=torch.device("cpu"), dtype=torch.float32, max_image_tokens=32)
    model.end_ids = frozenset({*model.end_ids, *range(10, 20)})
    return model


@pytest.fixture(scope="session")
def base(tiny: models.VisionLanguageModel) -> Base:
    """What an adapter must know of `tiny` to fit it."""
    return adapter_format.base_of(tiny.network, name=tiny.name, fingerprint=tiny.fingerprint)
