"""The encoder that open_clip provides, loaded from a local folder in open_clip's published format.

The folder holds open_clip_config.json (model_cfg, preprocess_cfg) and open_clip_model.safetensors; nothing is ever
downloaded, and no pickle is opened.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from services.core import torchvision_shim
from services.core.devices import device_memory_guard, prepare_device
from services.core.errors import ConfigurationError
from services.core.images import DEFAULT_LIMITS, ImageLimits
from services.core.settings import MINI_DIR
from services.embedder import preprocessing
from services.embedder.encoder import Matrix, Tokens
from services.embedder.imports import without
from services.embedder.preprocessing import Pixels, Preprocessing
from services.embedder.settings import EmbedderSettings

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# The tokenizer remembers every word it has split; strangers' texts must not grow that without bound.
_MAX_REMEMBERED_WORDS = 50_000
_log = logging.getLogger("mondrian.encoder")


class ClipEncoder:
    """An open_clip model as an Encoder: weights in the device's dtype, embeddings in float32."""

    def __init__(
        self, model: Any, tokenizer: Any, prepare: Preprocessing, *, name: str, space_id: str, device: torch.device
    ) -> None:
        self.name = name
        self.space_id = space_id
        self.preprocessing = prepare
        self._model = model
        self._tokenizer = tokenizer
        self._tokenizing = threading.Lock()
        self.device = device
        self.dtype: torch.dtype = next(model.parameters()).dtype
        # [1, 3, 1, 1]: of 0..255, so that dividing by 255 costs nothing.
        self._mean = torch.tensor(prepare.mean, device=device).view(1, 3, 1, 1) * 255.0
        self._scale = 1.0 / (torch.tensor(prepare.std, device=device).view(1, 3, 1, 1) * 255.0)
        self.dimensions = int(self.forward_images([np.zeros((prepare.height, prepare.width, 3), np.uint8)]).shape[1])

    def photograph(self, content: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
        """See Encoder."""
        return self.preprocessing.photograph(content, limits)

    def pixels(self, photograph: Image.Image) -> Pixels:
        """See Encoder."""
        return self.preprocessing.pixels(photograph)

    def tokenize(self, text: str) -> Tokens:
        """See Encoder."""
        with self._tokenizing:
            remembered = getattr(self._tokenizer, "cache", {})
            if len(remembered) > _MAX_REMEMBERED_WORDS:
                remembered.clear()
            tokens: Tokens = self._tokenizer([text])[0].numpy()
        return tokens

    def image_tower(self) -> torch.nn.Module:
        """Returns a copy of the image tower in float32, its weights as the served ones were rounded."""
        tower: torch.nn.Module = copy.deepcopy(self._model.visual).float()
        return tower

    def forward_images(self, batch: Sequence[Pixels]) -> Matrix:
        """See Encoder.

        Raises:
            DeviceMemory: the batch does not fit into the device's memory.
        """
        with torch.inference_mode(), device_memory_guard():
            pixels = torch.from_numpy(np.stack(batch)).to(self.device).permute(0, 3, 1, 2)
            # In float32 for the whole batch at once, then to the weights' dtype: no autocast, whose copies of the
            # attention weights make batches slower than single photographs.
            scaled = ((pixels.float() - self._mean) * self._scale).to(self.dtype)
            return _unit(self._model.encode_image(scaled))

    def forward_texts(self, batch: Sequence[Tokens]) -> Matrix:
        """See Encoder.

        Raises:
            DeviceMemory: the batch does not fit into the device's memory.
        """
        with torch.inference_mode(), device_memory_guard():
            return _unit(self._model.encode_text(torch.from_numpy(np.stack(batch)).to(self.device)))


def load_encoder(settings: EmbedderSettings) -> ClipEncoder:
    """Returns the encoder of the settings' folder, on the settings' device.

    Raises:
        ConfigurationError: the folder or a file of it is missing, holds only a pickle, or does not fit together.
    """
    folder = settings.encoder_folder
    config, weights = _files(folder, settings.profile)
    device, dtype = prepare_device(settings)
    _import_open_clip()
    model_config = dict(config["model_cfg"])
    try:
        model = _model(model_config, weights)
    except ConfigurationError:
        raise
    except Exception as error:
        # open_clip and torch name each missing or misshapen tensor; the first line says enough.
        fault = str(error).strip().splitlines()[:2]
        raise ConfigurationError(
            f"{weights} does not fit {folder / CONFIG} ({' '.join(fault)[:300]}); {_fetch(settings.profile)}."
        ) from error
    model = model.eval().requires_grad_(False).to(device=device, dtype=dtype)
    prepare = Preprocessing.of(model.visual.image_size, dict(config.get("preprocess_cfg") or {}))
    space_id = _space_id(weights, model_config, prepare, dtype)
    # The embedded default says of itself that it is small.
    name = f"mini-{folder.name}" if folder.is_relative_to(MINI_DIR) else folder.name
    encoder = ClipEncoder(
        model, _tokenizer(folder, model_config["text_cfg"]), prepare, name=name, space_id=space_id, device=device
    )
    _log.info("encoder %s@%s on %s in %s", name, space_id, device, str(dtype).removeprefix("torch."))
    return encoder


def _files(folder: Path, profile: str) -> tuple[dict[str, Any], Path]:
    if not folder.is_dir():
        raise ConfigurationError(f"The encoder's folder {folder} does not exist; {_fetch(profile)}.")
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except FileNotFoundError as error:
        raise ConfigurationError(f"{folder} holds no {CONFIG}; {_fetch(profile)}.") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{folder / CONFIG} cannot be read ({error}); {_fetch(profile)}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
        raise ConfigurationError(f"{folder / CONFIG} has no model_cfg; {_fetch(profile)}.")
    for name in WEIGHTS:
        if (folder / name).is_file():
            return config, folder / name
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise ConfigurationError(
            f"{folder} holds only {pickles[0]}, a pickle, which is never loaded because it can run code; "
            f"{_fetch(profile)} as {WEIGHTS[0]}."
        )
    raise ConfigurationError(f"{folder} holds no {WEIGHTS[0]}; {_fetch(profile)}.")


def _fetch(profile: str) -> str:
    if profile == "mini":
        return "restore it with `git checkout -- deploy/mini`, or make it anew with `make mini`"
    return "fetch the published weights with `mondrian models pull`, or set MONDRIAN_EMBEDDER_MODEL_PATH"


def _import_open_clip() -> None:
    """Imports open_clip without transformers, which it would import for towers that are not served here: 2 s of CPU."""
    torchvision_shim.install()
    with without("transformers"):
        importlib.import_module("open_clip")


def _model(model_config: dict[str, Any], weights: Path) -> Any:
    from open_clip.factory import load_checkpoint
    from open_clip.model import CLIP, CustomTextCLIP

    config = dict(model_config)
    if "hf_model_name" in config.get("text_cfg", {}) or "timm_model_name" in config.get("vision_cfg", {}):
        raise ConfigurationError(
            f"{weights.parent / CONFIG} names a tower of another library (hf_model_name or timm_model_name); "
            "only open_clip's own towers are served."
        )
    kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    model = kind(**config)
    # By path, and not by open_clip's search of the folder, which may prefer a pickle.
    load_checkpoint(model, str(weights), strict=True)
    return model


def _tokenizer(folder: Path, text_config: dict[str, Any]) -> Any:
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

    context_length = text_config.get("context_length", DEFAULT_CONTEXT_LENGTH)
    options = text_config.get("tokenizer_kwargs", {})
    if "hf_tokenizer_name" in text_config:
        # The tokenizer's own files lie beside the weights.
        return HFTokenizer(str(folder), context_length=context_length, **options)
    return SimpleTokenizer(context_length=context_length, **options)


def _space_id(weights: Path, model_config: dict[str, Any], prepare: Preprocessing, dtype: torch.dtype) -> str:
    digest = hashlib.sha256()
    with weights.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    described = {
        "model": model_config,
        "preprocessing": [preprocessing.VERSION, repr(prepare)],
        "dtype": str(dtype),
        "engine": "torch",
    }
    digest.update(json.dumps(described, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _unit(embeddings: Tensor) -> Matrix:
    """Returns the embeddings in float32 and of length 1; normalising in bfloat16 would leave 0.998 to 1.002."""
    normalised = torch.nn.functional.normalize(embeddings.float(), dim=-1)
    array: Matrix = normalised.cpu().numpy()
    return array
