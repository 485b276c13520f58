"""The optional CLIP backbone: unit embeddings of pictures and of texts, by an open_clip model from a local folder.

The folder is in open_clip's published format (open_clip_config.json and open_clip_model.safetensors). Nothing is
downloaded and no pickle is opened. A picture goes in whole: its long side is brought to the tower's input and the rest
is filled with the tower's mean colour, since a crop of the middle would destroy what composition means.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from services.core import torchvision_shim
from services.core.errors import ConfigurationError

Matrix = NDArray[np.float32]
"""Embeddings [n, dimensions], each of Euclidean length 1."""

CONFIG: Final = "open_clip_config.json"
WEIGHTS: Final = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
PREPARATION: Final = "pad-1"
"""Part of the hash: changed when the same picture would reach the tower as other numbers."""

# The normalisation of OpenAI's CLIP, which open_clip assumes where a configuration names none.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


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
        self._mean = torch.tensor(preprocess.get("mean") or _MEAN, device=self._device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(preprocess.get("std") or _STD, device=self._device).view(1, 3, 1, 1) * 255

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
    config, weights = _files(folder)
    model_config = dict(config["model_cfg"])
    foreign = {"hf_model_name", "hf_tokenizer_name", "timm_model_name"}
    named = foreign & {*model_config.get("text_cfg", {}), *model_config.get("vision_cfg", {})}
    if named:
        raise ConfigurationError(
            f"{folder / CONFIG} names a tower or tokenizer of another library ({', '.join(sorted(named))}); "
            "only open_clip's own are used."
        )
    _import_open_clip()
    from open_clip.factory import load_checkpoint
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, SimpleTokenizer

    preprocess = dict(config.get("preprocess_cfg") or {})
    described = json.dumps([model_config, preprocess.get("mean"), preprocess.get("std"), PREPARATION], sort_keys=True)
    kind = CustomTextCLIP if model_config.pop("custom_text", False) else CLIP
    try:
        model = kind(**model_config)
        # By path, and not by open_clip's search of the folder, which may prefer a pickle.
        load_checkpoint(model, str(weights), strict=True)
    except Exception as error:
        fault = " ".join(str(error).strip().splitlines()[:2])[:300]
        raise ConfigurationError(f"{weights} does not fit {folder / CONFIG} ({fault}); fetch both anew.") from error
    digest = hashlib.sha256(described.encode())
    with weights.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    context = model_config["text_cfg"].get("context_length", DEFAULT_CONTEXT_LENGTH)
    return Backbone(
        model.eval().requires_grad_(False).to(device=device, dtype=dtype),
        SimpleTokenizer(context_length=context),
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


def _files(folder: Path) -> tuple[dict[str, Any], Path]:
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"MONDRIAN_SCORER_CLIP_PATH names no open_clip folder: {folder / CONFIG} cannot be read ({error})."
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
        raise ConfigurationError(f"{folder / CONFIG} has no model_cfg: fetch it anew.")
    for name in WEIGHTS:
        if (folder / name).is_file():
            return config, folder / name
    raise ConfigurationError(f"{folder} holds no {WEIGHTS[0]}; a pickle is never loaded, because it can run code.")


def _import_open_clip() -> None:
    """Imports open_clip without transformers, which it would import for towers that are not used here: 2 s of CPU."""
    torchvision_shim.install()
    hidden = "transformers" not in sys.modules
    if hidden:
        # An import of None raises ImportError, which open_clip is prepared for.
        sys.modules["transformers"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("open_clip")
    except ImportError as error:
        raise ConfigurationError(
            f'MONDRIAN_SCORER_CLIP_PATH is set, but open_clip cannot be imported ({error}): pip install ".[scorer]".'
        ) from error
    finally:
        if hidden:
            del sys.modules["transformers"]


def _unit(embeddings: Tensor) -> Matrix:
    """Float32 and of length 1; normalising in bfloat16 would leave 0.998 to 1.002."""
    array: Matrix = functional.normalize(embeddings.float(), dim=-1).cpu().numpy()
    return array
