"""Photographs with critiques: read from a file, divided into taught and held out, turned into batches."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from services.core.errors import ConfigurationError, InvalidImage
from services.core.images import reading
from services.critic import prompts
from services.critic.model import Prompt, VisionLanguageModel

IGNORED: Final = -100
"""The label of a token that is given and not learnt; torch's cross entropy leaves it out."""

_MEND: Final = "put it back to go on, or run the same command again to begin anew with the photographs as they are"


@dataclass(frozen=True)
class Example:
    """A photograph, which is read anew whenever it is needed, and what is written of it.

    `key`: the sha256 of its bytes; `instruction`: the wish, empty for the service's own; `answer`: the tokens of the
    critique, the one that ends it included.
    """

    photograph: Path
    key: str
    instruction: str
    answer: tuple[int, ...]

    def prompt(self, model: VisionLanguageModel) -> Prompt:
        """Returns the photograph with the wish, as the model reads them.

        Raises `ConfigurationError` when the photograph is not the one that was there when the examples were read.
        """
        try:
            content = self.photograph.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"{self.photograph} cannot be read any more ({error.strerror}): {_MEND}."
            ) from error
        if reading.sha256(content) != self.key:
            raise ConfigurationError(f"{self.photograph} has changed since the training began: {_MEND}.")
        return _prompt(model, content, self.key, self.instruction)


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
            photograph, critique, instruction = _fields(path.parent, line)
            example = _example(model, photograph, critique, instruction, max_tokens)
        except (ValueError, OSError, InvalidImage) as error:
            skipped.append(f"line {number}: {error}")
            continue
        mark = bytes.fromhex(example.key)
        digest.update(mark + json.dumps([critique, instruction]).encode())
        sides[int.from_bytes(mark[:4], "big") < held_out * 2**32].append(example)
    taught, held = sides
    if not taught or not held:
        raise ConfigurationError(
            f"{path} gives {len(taught)} examples to teach and {len(held)} to hold out, and both need some"
            + (f"; the first line that cannot be used is {skipped[0]}." if skipped else ": add photographs.")
        )
    return Examples(tuple(taught), tuple(held), tuple(skipped), digest.hexdigest())


def _fields(folder: Path, line: str) -> tuple[Path, str, str]:
    entry = json.loads(line)
    if not isinstance(entry, dict) or not isinstance(entry.get("photograph"), str):
        raise ValueError("it is not an object with a photograph")
    critique, instruction = entry.get("critique"), entry.get("instruction", "")
    if not isinstance(critique, str) or not critique.strip() or not isinstance(instruction, str):
        raise ValueError("it has no critique in words")
    return folder / entry["photograph"], critique.strip(), instruction


def _example(model: VisionLanguageModel, path: Path, critique: str, instruction: str, max_tokens: int) -> Example:
    content = path.read_bytes()
    key = reading.sha256(content)
    prompt = _prompt(model, content, key, instruction)
    words = model.tokenizer(prompts.plain_text(critique), add_special_tokens=False)["input_ids"]
    answer = (*words, int(model.tokenizer.eos_token_id))
    taken = len(prompt.token_ids) + len(answer)
    if taken > max_tokens:
        raise ValueError(f"photograph and critique take {taken} tokens of at most {max_tokens}")
    return Example(path, key, instruction, answer)


def _prompt(model: VisionLanguageModel, content: bytes, key: str, instruction: str) -> Prompt:
    inputs = model.vision_inputs(reading.decode(content, short_side=model.useful_side), key)
    return model.prompt(inputs, lambda tokens: prompts.prompt_text(instruction, image_tokens=tokens))


def batches(
    parts: Iterable[Sequence[Example]], model: VisionLanguageModel
) -> Generator[tuple[Sequence[Example], dict[str, Any]], None, None]:
    """Yields each part with its batch; a thread reads the next one meanwhile, and no more are in memory.

    Raises `ConfigurationError`: see `Example.prompt`.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read") as thread:
        reading: deque[tuple[Sequence[Example], Future[dict[str, Any]]]] = deque()
        for part in parts:
            reading.append((part, thread.submit(batch, part, model)))
            if len(reading) > 1:
                yield _read(*reading.popleft(), model)
        while reading:
            yield _read(*reading.popleft(), model)


def _read(
    part: Sequence[Example], reading: Future[dict[str, Any]], model: VisionLanguageModel
) -> tuple[Sequence[Example], dict[str, Any]]:
    return part, {name: tensor.to(model.device) for name, tensor in reading.result().items()}


def batch(examples: Sequence[Example], model: VisionLanguageModel) -> dict[str, Any]:
    """Returns the arguments of the network's forward pass on the CPU, padded on the right; only critiques have labels.

    Raises `ConfigurationError`: see `Example.prompt`.
    """
    read = [example.prompt(model) for example in examples]
    width = max(len(prompt.token_ids) + len(example.answer) for prompt, example in zip(read, examples, strict=True))
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for row, (prompt, example) in enumerate(zip(read, examples, strict=True)):
        start = len(prompt.token_ids)
        end = start + len(example.answer)
        ids[row, :end] = torch.tensor([*prompt.token_ids, *example.answer])
        labels[row, start:end] = torch.tensor(example.answer)
        mask[row, :end] = 1
    pixels = torch.cat([prompt.image.pixels for prompt in read])
    return {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == model.image_token_id).int(),
        "pixel_values": pixels.to(model.dtype),
        "image_grid_thw": torch.tensor([prompt.image.grid for prompt in read]),
    }
