"""The vision-language model: loaded from a folder, and what turns a photograph and words into its inputs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from services.core.errors import ConfigurationError, InvalidArgument, InvalidImage
from services.core.models import torchvision_shim
from services.critic import checkpoint
from services.critic.language import LanguageWeights

torchvision_shim.install()

from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

transformers_logging.disable_progress_bar()

MODEL_TYPE: Final = "qwen3_vl"
_NEEDED: Final = {
    "preprocessor_config.json": "how photographs are prepared",
    "tokenizer_config.json": "how text is divided into tokens",
}


@dataclass(frozen=True)
class VisionInputs:
    """A photograph as the vision tower reads it.

    `pixels`: [patches, channels * temporal * patch * patch] float32 on the CPU; `grid`: frames, rows and
    columns of patches; `tokens`: places in the prompt (merged patches); `key`: the photograph's identity.
    """

    pixels: torch.Tensor
    grid: tuple[int, int, int]
    tokens: int
    key: str


@dataclass(frozen=True)
class VisionFeatures:
    """What the vision tower makes of a photograph: [tokens, hidden] for the prompt, and as many for each of the
    first layers of the language model (DeepStack, arXiv 2406.04334). On the model's device, in its dtype."""

    embeds: torch.Tensor
    deepstack: tuple[torch.Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Returns the size in bytes."""
        return sum(t.numel() * t.element_size() for t in (self.embeds, *self.deepstack))


@dataclass(frozen=True)
class Prompt:
    """A request's input, ready for the engine.

    `token_ids`: the whole prompt; `positions`: [3, len(token_ids)] int64, the time, row and column of each token
    (M-RoPE); `image_start`: the place of the first image token; `image`: the photograph.
    """

    token_ids: tuple[int, ...]
    positions: torch.Tensor
    image_start: int
    image: VisionInputs

    @property
    def next_position(self) -> int:
        """Returns the position of the first token to be written (image tokens share rows and columns)."""
        return int(self.positions.max()) + 1


class VisionLanguageModel:
    """A Qwen3-VL and its tokenizer and image processor.

    `prompt` may be called from any thread; `features` and `network` belong to one thread at a time.
    """

    def __init__(
        self, network: Any, tokenizer: Any, image_processor: Any, *, name: str, fingerprint: str, max_image_tokens: int
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.name = name
        self.fingerprint = fingerprint
        self.image_token_id = int(network.config.image_token_id)
        self.end_ids = _end_ids(network, tokenizer)
        self._image_processor = image_processor
        self._side = int(image_processor.patch_size) * int(image_processor.merge_size)
        own_area = int(image_processor.size["longest_edge"])
        self._max_tokens = max(1, min(max_image_tokens, own_area // self._side**2))
        self._min_area = min(int(image_processor.size["shortest_edge"]), self._max_tokens * self._side**2)

    @property
    def device(self) -> torch.device:
        """Returns where the weights are."""
        return self.network.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """Returns the dtype of the weights."""
        return self.network.dtype  # type: ignore[no-any-return]

    @property
    def useful_side(self) -> int:
        """Returns the length in pixels of a photograph's short side beyond which more detail is lost on the model.

        Three times the side of the greatest square that is read: a reduced decode of that size leaves
        the model's input as it is.
        """
        return 3 * int((self._max_tokens * self._side**2) ** 0.5)

    @functools.cached_property
    def language(self) -> LanguageWeights:
        """The weights of the language model as the decoder uses them; from then on `network` may not write any more."""
        return LanguageWeights(self.network)

    def vision_inputs(self, image: Image.Image, key: str) -> VisionInputs:
        """Returns the photograph (mode RGB) as patches; `key` tells one photograph from another.

        Raises `InvalidImage` (IMAGE_ASPECT_RATIO) when its sides are too unlike for the model.
        """
        try:
            area = {"shortest_edge": self._min_area, "longest_edge": self._max_tokens * self._side**2}
            prepared = self._image_processor(images=image, size=area, return_tensors="pt")
        except ValueError as error:
            raise _too_long(image) from error
        grid = tuple(int(n) for n in prepared["image_grid_thw"][0])
        tokens = grid[0] * grid[1] * grid[2] // int(self._image_processor.merge_size) ** 2
        # A very long strip is widened to one patch, which can take it over the area again.
        if not 1 <= tokens <= self._max_tokens:
            raise _too_long(image)
        return VisionInputs(prepared["pixel_values"], (grid[0], grid[1], grid[2]), tokens, key)

    def prompt(self, image: VisionInputs, write: Callable[[int], str]) -> Prompt:
        """Returns the input made of a photograph and the text that `write` returns for its number of tokens.

        Raises `InvalidArgument` when the text spells other image tokens than the photograph's own.
        """
        ids = self._ids(write(image.tokens))
        start = ids.index(self.image_token_id) if self.image_token_id in ids else 0
        span = slice(start, start + image.tokens)
        if ids.count(self.image_token_id) != image.tokens or set(ids[span]) != {self.image_token_id}:
            raise InvalidArgument("The instruction must not hold the model's own control tokens.", field="instruction")
        kinds = torch.zeros(1, len(ids), dtype=torch.int32)
        kinds[0, span] = 1
        positions, _ = self.network.model.get_rope_index(
            torch.tensor([ids]), kinds, image_grid_thw=torch.tensor([image.grid])
        )
        return Prompt(tuple(ids), positions[:, 0], start, image)

    def count(self, text: str) -> int:
        """Returns how many tokens a prompt is."""
        return len(self._ids(text))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def features(self, images: Sequence[VisionInputs]) -> list[VisionFeatures]:
        """Returns what the vision tower makes of each photograph; one pass over all of them."""
        pixels = torch.cat([image.pixels for image in images]).to(self.device, self.dtype)
        grids = torch.tensor([image.grid for image in images], device=self.device)
        out = self.network.model.get_image_features(pixels, grids)
        # Copies: a slice of the pass would keep the features of all its photographs alive.
        deepstack = list(zip(*out.deepstack_features, strict=True)) or [()] * len(images)
        return [
            VisionFeatures(embeds.clone(), tuple(layer.clone() for layer in layers))
            for embeds, layers in zip(out.pooler_output, deepstack, strict=True)
        ]


def load(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    name: str | None = None,
    max_image_tokens: int = 1024,
) -> VisionLanguageModel:
    """Returns the model in `folder`, in eval mode, on `device`; nothing is fetched and no code of the folder runs.

    `name` is what replies call it; the folder's own name unless given. `max_image_tokens` caps the size at which
    photographs are read. Raises `ConfigurationError`, with the sentence for the operator, when the folder is not a
    complete Qwen3-VL in safetensors.
    """
    files = checkpoint.model_files(folder)
    for file_name, purpose in _NEEDED.items():
        if not (folder / file_name).is_file():
            raise ConfigurationError(f"The model folder {folder} lacks {file_name} ({purpose}); copy the model again.")
    _check_type(folder)
    mark = checkpoint.fingerprint(files)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            attn_implementation="sdpa", output_loading_info=True,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        image_processor = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="pil"
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ConfigurationError(f"The model in {folder} cannot be loaded: {_first_line(error)}") from error
    network, report = loaded
    _check_complete(folder, report)
    network.to(device).eval().requires_grad_(False)
    return VisionLanguageModel(
        network, tokenizer, image_processor,
        name=name or folder.name, fingerprint=mark, max_image_tokens=max_image_tokens,
    )  # fmt: skip


def _check_type(folder: Path) -> None:
    try:
        kind = json.loads((folder / "config.json").read_bytes())["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{folder / 'config.json'} is damaged; copy the model again.") from error
    if kind != MODEL_TYPE:
        raise ConfigurationError(
            f"The model in {folder} is of type {kind!r}; the critic serves models of type {MODEL_TYPE!r}."
        )


def _check_complete(folder: Path, report: dict[str, Any]) -> None:
    # A weight that is missing would be served with whatever memory held.
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        first = missing[0] if missing else sorted(report["mismatched_keys"])[0][0]
        raise ConfigurationError(f"The model in {folder} is incomplete ({first} is missing); copy the model again.")


def _end_ids(network: Any, tokenizer: Any) -> frozenset[int]:
    named = network.generation_config.eos_token_id
    listed = named if isinstance(named, list) else [named]
    ends = {int(token) for token in [*listed, tokenizer.eos_token_id] if token is not None}
    if not ends:
        raise ConfigurationError("The model names no end-of-text token (eos_token_id in generation_config.json).")
    return frozenset(ends)


def _too_long(image: Image.Image) -> InvalidImage:
    return InvalidImage(
        f"The photograph is {image.width} x {image.height} pixels; its sides are too unlike for the model: crop it.",
        reason="IMAGE_ASPECT_RATIO",
        field="image",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
