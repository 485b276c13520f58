"""Mixed critiques through many adapters at once, each compared with the same one written alone.

    python -m tests.load.mixed_critiques [--requests 1000] [--seed 0]

Photographs, instructions, advisors, lengths and sampling settings are drawn at random, requests arrive in bursts, and
a fifth of them is cancelled at a random moment. The reference is transformers' own `generate` with peft's adapter,
one request at a time, in float32, where a sampled row draws from the same seed. What a cancelled request had been
told must be the beginning of its reference. At the end 200 endless critiques are cancelled at random moments, and
nothing may be left of them: no row, no place in the queue, no byte of an adapter or of a photograph.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import gc
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from services.core.models import torchvision_shim
from services.critic import adapter_format, prompts
from services.critic import model as models
from services.critic.adapter_format import AdapterLimits
from services.critic.engine import Completed, Delta, EngineStats, Generation
from services.critic.lora import TARGETS, AdapterWeights
from services.critic.model import Prompt, VisionLanguageModel
from services.critic.sampling import Sampler, SamplingParams, choose
from services.critic.slots import SlotEngine
from services.critic.writer import EngineOptions, Row
from tests.fakes.critic import photograph, random_adapter, tiny_model_folder

torchvision_shim.install()

from peft import PeftModel  # noqa: E402 - it imports torchvision, which needs the shim first
from transformers import LogitsProcessor, LogitsProcessorList  # noqa: E402

LONGEST: Final = 32
SHAPES: Final = ((64, 48), (48, 64), (64, 64), (120, 40), (40, 120), (96, 64), (33, 47))
INSTRUCTIONS: Final = ("", "Look at the light.", "Say what to try next, and why it would help the picture.")
SAMPLING: Final = (
    SamplingParams(LONGEST),
    SamplingParams(LONGEST, repetition_penalty=1.3),
    SamplingParams(LONGEST, temperature=0.7, seed=1),
    SamplingParams(LONGEST, temperature=1.0, top_p=0.9, seed=2),
    SamplingParams(LONGEST, temperature=1.5, top_p=0.5, repetition_penalty=1.1, seed=3),
)
# Targets and ranks of the eight adapters: some change every Linear, some a few.
KINDS: Final = tuple(
    {"rank": rank, "target_modules": targets, "lora_alpha": 2 * rank}
    for rank, targets in (
        (4, ["q_proj", "v_proj"]), (8, sorted(TARGETS)), (2, ["down_proj", "k_proj"]), (8, sorted(TARGETS)),
        (1, ["o_proj"]), (6, ["gate_proj", "up_proj", "down_proj"]), (3, sorted(TARGETS)), (8, ["up_proj"]),
    )
)  # fmt: skip
# Rounding moves a logit by less than this; a choice that such a move changes is a tie.
ROUNDING: Final = 1e-3


@dataclass(frozen=True)
class Mixed:
    """One request; `cancel_after`: events that are read before it is cancelled, None to read all."""

    picture: int
    instruction: int
    adapter: str | None
    params: SamplingParams
    cancel_after: int | None


@dataclass
class Outcome:
    """How many requests were finished, cancelled, and otherwise than alone; what was left in the engine."""

    finished: int
    cancelled: int
    ties: int
    different: list[str]
    tokens: int
    stats: EngineStats
    rows_in_memory: int

    @property
    def left(self) -> dict[str, int]:
        """Returns what is left where nothing should be."""
        stats = self.stats
        return {
            "rows": stats.rows, "waiting": stats.waiting, "failed": stats.failed, "requests": self.rows_in_memory,
            "adapters": stats.adapters, "adapter bytes": stats.adapter_bytes,
        }  # fmt: skip


class Bench:
    """The model twice, with eight adapters: once for the engine, once with peft for the reference."""

    def __init__(self, folder: Path) -> None:
        tiny_model_folder(folder / "tiny")
        self.model = self._load(folder / "tiny")
        reference = self._load(folder / "tiny")
        base = adapter_format.base_of(self.model.network, name=self.model.name, fingerprint=self.model.fingerprint)
        self.adapters: dict[str, AdapterWeights] = {}
        self._peft: Any = None
        for number, kind in enumerate(KINDS):
            name = f"advisor-{number}"
            path = random_adapter(folder / name, base, seed=number, **kind)  # type: ignore[arg-type]
            self.adapters[name] = adapter_format.read(path, base, AdapterLimits()).weights
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(reference.network, path, name, autocast_adapter_dtype=False)
            else:
                self._peft.load_adapter(path, name, autocast_adapter_dtype=False)
        self._peft.eval()
        self._prompts: dict[tuple[int, int], Prompt] = {}
        self._alone: dict[tuple[int, int, str | None, SamplingParams], list[int]] = {}

    @staticmethod
    def _load(folder: Path) -> VisionLanguageModel:
        model = models.load(folder, device=torch.device("cpu"), dtype=torch.float32, max_image_tokens=32)
        model.end_ids = frozenset({*model.end_ids, *range(10, 16)})  # so that many critiques end by themselves
        return model

    def prompt(self, picture: int, instruction: int) -> Prompt:
        """Returns the prompt of a photograph and an instruction."""
        if (picture, instruction) not in self._prompts:
            inputs = self.model.vision_inputs(photograph(*SHAPES[picture], seed=picture), f"picture-{picture}")
            self._prompts[picture, instruction] = self.model.prompt(
                inputs, lambda count: prompts.prompt_text(INSTRUCTIONS[instruction], image_tokens=count)
            )
        return self._prompts[picture, instruction]

    def alone(self, request: Mixed) -> list[int]:
        """Returns the tokens of the request when it is written alone."""
        key = (request.picture, request.instruction, request.adapter, replace(request.params, max_tokens=LONGEST))
        if key not in self._alone:
            self._alone[key] = self._generate(request, LogitsProcessorList([_Drawn(self._sampler(request))]))
        return self._alone[key][: request.params.max_tokens]

    def is_tie(self, request: Mixed, place: int, token: int) -> bool:
        """Returns whether `token` at `place` is what the reference would have written but for a rounding."""
        near = _Near(self._sampler(request), place)
        self._generate(request, LogitsProcessorList([near]))
        return token in near.tokens

    def _sampler(self, request: Mixed) -> Sampler:
        prompt = self.prompt(request.picture, request.instruction)
        return Sampler(request.params, prompt.token_ids, torch.device("cpu"))

    def _generate(self, request: Mixed, choosing: LogitsProcessorList) -> list[int]:
        prompt = self.prompt(request.picture, request.instruction)
        ids = torch.tensor([prompt.token_ids])
        arguments = {
            "input_ids": ids, "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self.model.image_token_id).int(), "pixel_values": prompt.image.pixels,
            "image_grid_thw": torch.tensor([prompt.image.grid]), "max_new_tokens": LONGEST, "do_sample": False,
            "eos_token_id": sorted(self.model.end_ids), "pad_token_id": self.model.tokenizer.pad_token_id,
            "logits_processor": choosing,
        }  # fmt: skip
        with torch.inference_mode():
            if request.adapter is None:
                with self._peft.disable_adapter():
                    out = self._peft.generate(**arguments)
            else:
                self._peft.set_adapter(request.adapter)
                out = self._peft.generate(**arguments)
        return out[0, len(prompt.token_ids) :].tolist()  # type: ignore[no-any-return]


class _Drawn(LogitsProcessor):
    """Lets a row's own sampler choose within `generate`: every other token becomes impossible."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token = choose(scores.clone(), [self._sampler])[0]
        self._sampler.settle(token)
        return torch.full_like(scores, -torch.inf).index_fill_(1, torch.tensor([token]), 0.0)


class _Near(_Drawn):
    """Notes which tokens the sampler would choose at one place if the logits were rounded otherwise."""

    def __init__(self, sampler: Sampler, place: int) -> None:
        super().__init__(sampler)
        self._left = place
        self.tokens: set[int] = set()

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._left == 0:
            generator = torch.Generator().manual_seed(0)
            for _ in range(64):
                moved = scores + ROUNDING * (2 * torch.rand(scores.shape, generator=generator) - 1)
                self.tokens.add(choose(moved, [copy.deepcopy(self._sampler)])[0])
        self._left -= 1
        return super().__call__(ids, scores)


def drawn(count: int, seed: int, names: Sequence[str]) -> list[Mixed]:
    """Returns `count` requests."""
    draw = random.Random(seed)
    return [
        Mixed(
            draw.randrange(len(SHAPES)),
            draw.randrange(len(INSTRUCTIONS)),
            draw.choice([None, *names]),
            replace(draw.choice(SAMPLING), max_tokens=draw.randint(1, LONGEST)),
            draw.randint(0, 12) if draw.random() < 0.2 else None,
        )
        for _ in range(count)
    ]


async def run(bench: Bench, count: int, seed: int) -> Outcome:
    """Returns how `count` drawn requests went."""
    requests = drawn(count, seed, list(bench.adapters))
    for request in requests:  # all references first, so that comparing does not hold the engine up
        bench.alone(request)
    # A cache too small for all photographs, so that some are read again; prompts of one turn are fewer than slots.
    options = EngineOptions(slots=12, max_tokens=512, max_queue=count, prefill_tokens=900, vision_cache_bytes=150_000)
    engine = SlotEngine(bench.model, options)
    engine.start()
    for name, weights in bench.adapters.items():
        await engine.load_adapter(name, weights)
    outcome = Outcome(0, 0, 0, [], 0, engine.stats(), 0)
    draw = random.Random(seed + 1)
    reading: list[asyncio.Task[None]] = []
    for request in requests:
        if draw.random() < 0.3:  # a burst ends: the engine goes on for a while before the next one
            for _ in range(draw.randint(0, 6)):
                await engine.turn()
        prompt = bench.prompt(request.picture, request.instruction)
        stream = engine.submit(prompt, request.params, adapter=request.adapter)
        reading.append(asyncio.create_task(_read(bench, request, stream, outcome)))
    await asyncio.gather(*reading)
    while (stats := engine.stats()).rows or stats.waiting:
        await engine.turn()
    for name in bench.adapters:
        await engine.unload_adapter(name)
    reading.clear()
    await engine.turn()
    outcome.stats, outcome.rows_in_memory = engine.stats(), living_rows()
    await engine.close()
    return outcome


async def _read(bench: Bench, request: Mixed, stream: Generation, outcome: Outcome) -> None:
    """Reads one answer, or as much of it as is read before it is cancelled, and compares it."""
    seen, text = 0, ""
    async for event in stream:
        if seen == request.cancel_after:
            stream.cancel()
            break
        seen += 1
        if isinstance(event, Delta):
            text += event.text
        if isinstance(event, Completed):
            outcome.finished += 1
            outcome.tokens += len(event.tokens)
            _compare(bench, request, list(event.tokens), outcome)
            return
    outcome.cancelled += 1
    whole: str = bench.model.tokenizer.decode(bench.alone(request), skip_special_tokens=True)
    if not whole.startswith(text):
        outcome.different.append(f"{request}: told {text!r} before it was cancelled")


def _compare(bench: Bench, request: Mixed, tokens: list[int], outcome: Outcome) -> None:
    alone = bench.alone(request)
    if tokens == alone:
        return
    place = next((n for n, (a, b) in enumerate(zip(tokens, alone, strict=False)) if a != b), -1)
    if place >= 0 and bench.is_tie(request, place, tokens[place]):
        outcome.ties += 1
    else:
        outcome.different.append(f"{request}: token {place}: {tokens} where alone {alone}")


def living_rows() -> int:
    """Returns how many requests are still in memory, whoever holds them."""
    gc.collect()
    return sum(type(one) is Row for one in gc.get_objects())


async def cancel_all(bench: Bench, count: int, seed: int) -> dict[str, int]:
    """Returns what is left of `count` endless critiques that were cancelled at random moments; all should be 0."""
    model = copy.copy(bench.model)
    model.end_ids = frozenset({-1})
    engine = SlotEngine(model, EngineOptions(slots=8, max_tokens=2048, max_queue=count, vision_cache_bytes=0))
    engine.start()
    for name, weights in bench.adapters.items():
        await engine.load_adapter(name, weights)
    draw = random.Random(seed)
    names = [None, *bench.adapters]

    async def leave() -> None:
        prompt = bench.prompt(draw.randrange(len(SHAPES)), draw.randrange(len(INSTRUCTIONS)))
        stream = engine.submit(prompt, SamplingParams(1_500), adapter=draw.choice(names))
        for _ in range(draw.randint(0, 60)):
            await engine.turn()
        stream.cancel()

    await asyncio.gather(*(leave() for _ in range(count)))
    while (stats := engine.stats()).rows or stats.waiting:
        await engine.turn()
    for name in bench.adapters:
        await engine.unload_adapter(name)
    stats = engine.stats()
    await engine.close()
    return {
        "not cancelled": count - stats.cancelled, "rows": stats.rows, "waiting": stats.waiting,
        "requests": living_rows(), "adapters": stats.adapters, "adapter bytes": stats.adapter_bytes,
        "photograph bytes": stats.vision_cache_bytes,
    }  # fmt: skip


def main() -> int:
    """Runs both and prints what was found; 1 when an answer differs or something is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--cancels", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        outcome = asyncio.run(run(bench, arguments.requests, arguments.seed))
        left = asyncio.run(cancel_all(bench, arguments.cancels, arguments.seed))
    print(
        f"{outcome.finished} critiques with {outcome.tokens} tokens through {len(KINDS)} adapters and the base model, "
        f"{outcome.cancelled} cancelled: {len(outcome.different)} differ from the same one written alone, "
        f"{outcome.ties} at a tie"
    )
    print("left after them:", outcome.left)
    print(f"left of {arguments.cancels} critiques cancelled at random moments:", left)
    for line in outcome.different[:10]:
        print(line)
    return 1 if outcome.different or any(outcome.left.values()) or any(left.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
