"""An open_clip model as it is published: a folder with its configuration, its weights and its words.

The folder holds open_clip_config.json (model_cfg, preprocess_cfg) and open_clip_model.safetensors; nothing is ever
downloaded, and no pickle is opened. open_clip itself is imported when a model is made, and not before.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.core.errors import ConfigurationError
from services.core.models import torchvision_shim
from services.core.models.imports import without

CONFIG: Final = "open_clip_config.json"
WEIGHTS: Final = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""How OpenAI's CLIP normalises colours from 0 to 1; open_clip assumes it where a configuration names nothing else."""
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class OpenClipFolder:
    """A folder whose files are there. Its methods import open_clip."""

    path: Path
    weights: Path
    model_config: dict[str, Any]
    """What open_clip makes the model from."""
    preprocess_config: dict[str, Any]
    """How pictures are prepared; empty where the folder does not say."""
    mend: str
    """What a person can do where a file of it is of no use: the end of a sentence."""

    @classmethod
    def read(cls, path: Path, mend: str) -> OpenClipFolder:
        """Returns the folder at `path`.

        Raises:
            ConfigurationError: the folder or a file of it is missing, or it holds only a pickle.
        """
        if not path.is_dir():
            raise ConfigurationError(f"The model's folder {path} does not exist; {mend}.")
        try:
            config = json.loads((path / CONFIG).read_bytes())
        except FileNotFoundError as error:
            raise ConfigurationError(f"{path} holds no {CONFIG}; {mend}.") from error
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path / CONFIG} cannot be read ({error}); {mend}.") from error
        if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
            raise ConfigurationError(f"{path / CONFIG} has no model_cfg; {mend}.")
        for name in WEIGHTS:
            if (path / name).is_file():
                prepared = dict(config.get("preprocess_cfg") or {})
                return cls(path, path / name, config["model_cfg"], prepared, mend)
        pickles = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLES)
        if pickles:
            raise ConfigurationError(
                f"{path} holds only {pickles[0]}, a pickle, which is never loaded because it can run code; "
                f"{mend} as {WEIGHTS[0]}."
            )
        raise ConfigurationError(f"{path} holds no {WEIGHTS[0]}; {mend}.")

    def model(self) -> Any:
        """Returns the model in float32 on the CPU, for inference.

        Raises:
            ConfigurationError: open_clip is missing, or weights and configuration do not fit together.
        """
        _import_open_clip()
        from open_clip.factory import load_checkpoint
        from open_clip.model import CLIP, CustomTextCLIP

        config = dict(self.model_config)
        if "hf_model_name" in config.get("text_cfg", {}) or "timm_model_name" in config.get("vision_cfg", {}):
            raise ConfigurationError(
                f"{self.path / CONFIG} names a tower of another library (hf_model_name or timm_model_name); "
                "only open_clip's own towers are served."
            )
        try:
            model = (CustomTextCLIP if config.pop("custom_text", False) else CLIP)(**config)
            # By path, and not by open_clip's search of the folder, which may prefer a pickle.
            load_checkpoint(model, str(self.weights), strict=True)
        except Exception as error:
            # open_clip and torch name each missing or misshapen tensor; the first lines say enough.
            fault = " ".join(str(error).strip().splitlines()[:2])[:300]
            raise ConfigurationError(
                f"{self.weights} does not fit {self.path / CONFIG} ({fault}); {self.mend}."
            ) from error
        return model.eval().requires_grad_(False)

    def tokenizer(self) -> Any:
        """Returns what makes tokens [texts, context length] of texts."""
        _import_open_clip()
        from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

        text_config = self.model_config["text_cfg"]
        context_length = text_config.get("context_length", DEFAULT_CONTEXT_LENGTH)
        options = text_config.get("tokenizer_kwargs", {})
        if "hf_tokenizer_name" in text_config:
            # The tokenizer's own files lie beside the weights.
            return HFTokenizer(str(self.path), context_length=context_length, **options)
        return SimpleTokenizer(context_length=context_length, **options)

    def weights_sha256(self) -> bytes:
        """Returns the 32 bytes of the sha256 of the weights' file."""
        with self.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()


def _import_open_clip() -> None:
    """Imports open_clip without transformers, which it would import for towers that are not served here: 2 s of CPU."""
    torchvision_shim.install()
    try:
        with without("transformers"):
            importlib.import_module("open_clip")
    except ImportError as error:
        raise ConfigurationError(
            f'open_clip cannot be imported ({error}); pip install ".[embedder]" or ".[scorer]".'
        ) from error
