"""Photographs with critiques: read from a file, divided into taught and held out, turned into batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from services.core import images
from services.core.errors import ConfigurationError, InvalidImage
from services.critic import prompts
from services.critic.model import Prompt, VisionLanguageModel

IGNORED: Final = -100
"""The label of a token that is given and not learnt; torch's cross entropy leaves it out."""


@dataclass(frozen=True)
class Example:
    """A photograph's prompt and the tokens of its critique, the one that ends it included."""

    prompt: Prompt
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt.token_ids) + len(self.answer)


@dataclass(frozen=True)
class Examples:
    """What is taught and what is held out; `skipped` says why lines were left out; `digest` is the identity of all."""

    taught: tuple[Example, ...]
    held_out: tuple[Example, ...]
    skipped: tuple[str, ...]
    digest: str


def read_examples(path: Path, model: VisionLanguageModel, *, held_out: float, max_tokens: int) -> Examples:
    """Returns the examples of a JSONL file.

    `held_out`: the part of the photographs that is held out, 0 to 1; `max_tokens`: prompt and critique together.
    A line that cannot be used is skipped with its reason. Raises `ConfigurationError` when the file cannot be read or
    one of the two sides stays empty.
    """
    try:
        # Not by splitlines: JSON lets other separators of lines stand within its strings.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"The data {path} cannot be read: {error}.") from error
    sides: tuple[list[Example], list[Example]] = ([], [])
    skipped: list[str] = []
    digest = hashlib.sha256()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content, critique, instruction = _fields(path.parent, line)
            example = _example(model, content, critique, instruction, max_tokens)
        except (ValueError, OSError, InvalidImage) as error:
            skipped.append(f"line {number}: {error}")
            continue
        mark = hashlib.sha256(content)
        digest.update(mark.digest() + json.dumps([critique, instruction]).encode())
        sides[int.from_bytes(mark.digest()[:4], "big") < held_out * 2**32].append(example)
    taught, held = sides
    if not taught or not held:
        raise ConfigurationError(
            f"{path} gives {len(taught)} examples to teach and {len(held)} to hold out, and both need some"
            + (f"; the first line that cannot be used is {skipped[0]}." if skipped else ": add photographs.")
        )
    return Examples(tuple(taught), tuple(held), tuple(skipped), digest.hexdigest())


def _fields(folder: Path, line: str) -> tuple[bytes, str, str]:
    entry = json.loads(line)
    if not isinstance(entry, dict) or not isinstance(entry.get("photograph"), str):
        raise ValueError("it is not an object with a photograph")
    critique, instruction = entry.get("critique"), entry.get("instruction", "")
    if not isinstance(critique, str) or not critique.strip() or not isinstance(instruction, str):
        raise ValueError("it has no critique in words")
    return (folder / entry["photograph"]).read_bytes(), critique.strip(), instruction


def _example(model: VisionLanguageModel, content: bytes, critique: str, instruction: str, max_tokens: int) -> Example:
    inputs = model.vision_inputs(images.decode(content, short_side=model.useful_side), images.sha256(content))
    prompt = model.prompt(inputs, lambda tokens: prompts.prompt_text(instruction, image_tokens=tokens))
    words = model.tokenizer(prompts.plain_text(critique), add_special_tokens=False)["input_ids"]
    example = Example(prompt, (*words, int(model.tokenizer.eos_token_id)))
    if len(example) > max_tokens:
        raise ValueError(f"photograph and critique take {len(example)} tokens of at most {max_tokens}")
    return example


def batch(examples: Sequence[Example], model: VisionLanguageModel) -> dict[str, Any]:
    """Returns the arguments of the network's forward pass, padded on the right; only critiques have labels."""
    width = max(map(len, examples))
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        start = len(example.prompt.token_ids)
        ids[row, : len(example)] = torch.tensor([*example.prompt.token_ids, *example.answer])
        labels[row, start : len(example)] = torch.tensor(example.answer)
        mask[row, : len(example)] = 1
    pixels = torch.cat([example.prompt.image.pixels for example in examples])
    tensors = {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == model.image_token_id).int(),
        "pixel_values": pixels.to(model.dtype),
        "image_grid_thw": torch.tensor([example.prompt.image.grid for example in examples]),
    }
    return {name: tensor.to(model.device) for name, tensor in tensors.items()}
