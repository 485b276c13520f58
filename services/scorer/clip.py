"""The optional CLIP backbone: unit embeddings of pictures and of texts, by an open_clip model from a local folder.

A picture goes in whole: its long side is brought to the tower's input and the rest is filled with the tower's mean
colour, since a crop of the middle would destroy what composition means.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from services.core.models.open_clip_folder import MEAN, STD, OpenClipFolder

Matrix = NDArray[np.float32]
"""Embeddings [n, dimensions], each of Euclidean length 1."""

PREPARATION: Final = "pad-1"
"""Part of the hash: changed when the same picture would reach the tower as other numbers."""


class Backbone:
    """A loaded open_clip model. It is called from one thread at a time."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str, sha256: str, preprocess: dict[str, Any]) -> None:
        self.name = name
        """The folder's name."""
        self.sha256 = sha256
        """64 hex digits over weights, configuration and preparation; not over device and dtype."""
        self._model = model
        self._tokenizer = tokenizer
        parameter = next(model.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        size = model.visual.image_size
        self._rows, self._columns = (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
        # [1, 3, 1, 1]: of 0..255.
        self._mean = torch.tensor(preprocess.get("mean") or MEAN, device=self._device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(preprocess.get("std") or STD, device=self._device).view(1, 3, 1, 1) * 255

    @property
    def scale(self) -> float:
        """What CLIP was trained to multiply cosines by before a softmax, about 100."""
        return float(self._model.logit_scale.detach().float().exp())

    def embed(self, pictures: Sequence[NDArray[np.uint8]]) -> Matrix:
        """Returns the embeddings of sRGB pictures (uint8 [H, W, 3]) that all have the same shape, in their order."""
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(pictures)).to(self._device).permute(0, 3, 1, 2).float()
            return _unit(self._model.encode_image(self._prepared(pixels).to(self._dtype)))

    def embed_texts(self, texts: Sequence[str]) -> Matrix:
        """Returns the embeddings of texts; what exceeds the context length is cut off."""
        with torch.inference_mode():
            return _unit(self._model.encode_text(self._tokenizer(list(texts)).to(self._device)))

    def _prepared(self, pixels: Tensor) -> Tensor:
        rows, columns = pixels.shape[-2:]
        ratio = min(self._rows / rows, self._columns / columns)
        size = max(1, round(rows * ratio)), max(1, round(columns * ratio))
        resized = functional.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 255)
        above, left = (self._rows - size[0]) // 2, (self._columns - size[1]) // 2
        margins = (left, self._columns - size[1] - left, above, self._rows - size[0] - above)
        # Zero is the mean colour once it is subtracted.
        return functional.pad((resized - self._mean) / self._std, margins)


def load_backbone(folder: Path, device: torch.device, dtype: torch.dtype) -> Backbone:
    """Returns the model of a folder, on the device and in the dtype.

    Raises:
        ConfigurationError: open_clip is not installed, or the folder is missing, holds no safetensors, or does not fit
            together.
    """
    read = OpenClipFolder.read(folder, "set MONDRIAN_SCORER_CLIP_PATH to a folder in open_clip's published format")
    preprocess = read.preprocess_config
    described = [read.model_config, preprocess.get("mean"), preprocess.get("std"), PREPARATION]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode() + read.weights_sha256())
    return Backbone(
        read.model().to(device=device, dtype=dtype),
        read.tokenizer(),
        name=folder.name,
        sha256=digest.hexdigest(),
        preprocess=preprocess,
    )


def fixed_picture() -> NDArray[np.uint8]:
    """Returns the picture [192, 256, 3] whose embedding tells whether a backbone computes as it did: waves of colour
    that grow finer to the right.
    """
    y, x = np.mgrid[:192, :256].astype(np.float64)
    waves = [128 + 100 * np.sin(x * x / (900 + 300 * i) + y * (i + 1) / 19) for i in range(3)]
    return np.asarray(np.round(np.stack(waves, -1)), np.uint8)


def _unit(embeddings: Tensor) -> Matrix:
    """Float32 and of length 1; normalising in bfloat16 would leave 0.998 to 1.002."""
    array: Matrix = functional.normalize(embeddings.float(), dim=-1).cpu().numpy()
    return array
