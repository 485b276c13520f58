"""The encoder that open_clip provides, loaded from a local folder in open_clip's published format."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from services.core.images.reading import DEFAULT_LIMITS, ImageLimits
from services.core.models.devices import device_memory_guard, prepare_device
from services.core.models.open_clip_folder import OpenClipFolder
from services.core.settings import MINI_DIR
from services.embedder import preprocessing
from services.embedder.encoder import Matrix, Pixels, Tokens
from services.embedder.preprocessing import Preprocessing
from services.embedder.settings import EmbedderSettings

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
    folder = OpenClipFolder.read(settings.encoder_folder, _fetch(settings.profile))
    device, dtype = prepare_device(settings)
    model = folder.model().to(device=device, dtype=dtype)
    prepare = Preprocessing.of(model.visual.image_size, folder.preprocess_config)
    space_id = _space_id(folder, prepare, dtype)
    # The embedded default says of itself that it is small.
    path = folder.path
    name = f"mini-{path.name}" if path.is_relative_to(MINI_DIR) else path.name
    encoder = ClipEncoder(model, folder.tokenizer(), prepare, name=name, space_id=space_id, device=device)
    _log.info("encoder %s@%s on %s in %s", name, space_id, device, str(dtype).removeprefix("torch."))
    return encoder


def _fetch(profile: str) -> str:
    if profile == "mini":
        return "restore it with `git checkout -- deploy/mini`, or make it anew with `make mini`"
    return "fetch the published weights with `mondrian models pull`, or set MONDRIAN_EMBEDDER_MODEL_PATH"


def _space_id(folder: OpenClipFolder, prepare: Preprocessing, dtype: torch.dtype) -> str:
    digest = hashlib.sha256(folder.weights_sha256())
    described = {
        "model": folder.model_config,
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
