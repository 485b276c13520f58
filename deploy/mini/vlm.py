"""The mini vision-language model: its architecture, its tokenizer, its folder, and its inputs.

A Qwen3-VL in all but size: the classes, the tensor names, the special tokens, the chat format and the
preprocessing are those of Qwen/Qwen3-VL-4B-Instruct, so that one loading path serves both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from deploy.mini.facts import WORKING_AREA
from services.core.models import torchvision_shim

torchvision_shim.install()

from transformers import (  # noqa: E402 - its image code imports torchvision, which needs the shim first
    AutoConfig,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

MODEL_ID: Final = "mondrian-mini-vlm"
"""What the adapters name as their base."""

PATCH: Final = 8
MERGE: Final = 2
TEMPORAL: Final = 2
SMALLEST_AREA: Final = 64 * 64
VOCABULARY: Final = 1_024
HIDDEN: Final = 192

SPECIAL_TOKENS: Final = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip

# The image part of Qwen3-VL's template: an optional system message, turns, and the generation prompt.
CHAT_TEMPLATE: Final = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}
{%- for content in message.content -%}
{%- if content.type == 'image' or 'image' in content or 'image_url' in content -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif 'text' in content -%}{{- content.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer of at most 1,024 entries learnt from `texts`, with Qwen's special tokens.

    Any text can be encoded (each byte is an entry), and decoding gives it back exactly.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1_024,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    """Returns the untrained model in float32, 2.8 million parameters, with random weights."""
    ids = {token: int(tokenizer.get_vocab()[token]) for token in SPECIAL_TOKENS}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 48,
            "max_position_embeddings": 1_024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [8, 8, 8],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": (112 // PATCH) ** 2,
            "deepstack_visual_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return Qwen3VLForConditionalGeneration(config)


def save(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the whole model folder: config, bfloat16 safetensors, tokenizer, preprocessing, generation defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    stored: Any = Qwen3VLForConditionalGeneration(model.config)
    stored.to(torch.bfloat16)
    stored.load_state_dict(model.state_dict())
    stored.generation_config.update(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=128,
        do_sample=True,
        temperature=0.7,
        top_p=0.8,
        top_k=20,
    )
    stored.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing(), indent=2) + "\n")
    config = json.loads((folder / "config.json").read_text())
    config["_name_or_path"] = MODEL_ID
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    AutoConfig.from_pretrained(folder)


def preprocessing() -> dict[str, Any]:
    """Returns preprocessor_config.json: Qwen3-VL's own, with the picture's area capped at 12,544 pixels."""
    return {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": SMALLEST_AREA, "longest_edge": WORKING_AREA},
        "patch_size": PATCH,
        "temporal_patch_size": TEMPORAL,
        "merge_size": MERGE,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def patches(pictures: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (pixel_values, image_grid_thw) of pictures of one size, as the image processor would.

    `pictures` is uint8 [n, height, width, 3], sides multiples of 16 and area within the cap, so that
    the processor would not resize them. pixel_values is float32 [n * patches, 384] in -1..1, patches
    in the order of the merged grid; image_grid_thw is int64 [n, 3].
    """
    count, height, width, _ = pictures.shape
    rows, columns = height // PATCH, width // PATCH
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    x = x.reshape(count, 3, rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None]
    x = x.expand(*x.shape[:6], TEMPORAL, PATCH, PATCH)
    grid = torch.tensor([[1, rows, columns]]).repeat(count, 1)
    return x.reshape(count * rows * columns, -1), grid


def image_tokens(grid: torch.Tensor) -> int:
    """Returns how many image tokens a picture of this grid, int64 [3], takes in the text."""
    return int(grid.prod()) // MERGE**2


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of each text, special tokens read, none added."""
    encoded: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return encoded
