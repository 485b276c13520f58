"""What JSON costs: compiling the grammar, once, and masking a step's rows, beside choosing the same rows' tokens alone.

    python -m tests.bench.structured [--rows 32] [--steps 100] [--json FILE]

Two vocabularies: the mini model's, and one of the size of Qwen3-VL's, made of random words (some with quotation marks,
whose masking depends on where in the JSON they stand). The logits are random, so that strings are long and lists full.
CPU seconds of the process are compared, not wall time; prose and JSON take turns in one run.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import string
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from services.core.settings import MINI_DIR
from services.critic.sampling import Sampler, SamplingParams, choose
from services.critic.structured import JsonGrammar

LARGE: Final = 151_936
END: Final = "<|im_end|>"
LIMIT: Final = 1_000_000


@dataclass(frozen=True)
class Cost:
    """Milliseconds: compiling, once; and a step's choice of all rows, prose or JSON (medians)."""

    vocabulary: int
    rows: int
    compile_ms: float
    prose_step_ms: float
    json_step_ms: float

    @property
    def row_us(self) -> float:
        """Returns what JSON adds to a row and step, in microseconds."""
        return (self.json_step_ms - self.prose_step_ms) / self.rows * 1e3


def large_tokenizer() -> Any:
    """Returns a byte-level tokenizer of `LARGE` tokens: random words of 1 to 12 letters, one in thirty with a mark."""
    draw = random.Random(0)
    words = [*pre_tokenizers.ByteLevel.alphabet(), END]
    known = set(words)
    while len(words) < LARGE:
        word = draw.choice(("", "Ġ")) + "".join(draw.choices(string.ascii_letters, k=draw.randint(1, 12)))
        word = draw.choice(('"', '",Ġ"', '"]')) + word if draw.random() < 1 / 30 else word
        if word not in known:
            known.add(word)
            words.append(word)
    core = Tokenizer(models.BPE(vocab={word: token for token, word in enumerate(words)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END)


def measure(tokenizer: Any, rows: int, steps: int) -> Cost:
    """Returns what JSON costs with a tokenizer's vocabulary."""
    size = len(tokenizer)
    before = time.process_time()
    grammar = JsonGrammar(tokenizer, size, [tokenizer.eos_token_id])
    compile_s = time.process_time() - before
    params = SamplingParams(LIMIT, json=True)
    device = torch.device("cpu")
    prose = [Sampler(SamplingParams(LIMIT), (), device) for _ in range(rows)]
    guided = [Sampler(params, (), device, grammar.guide(LIMIT)) for _ in range(rows)]
    spent: dict[str, list[float]] = {"prose": [], "json": []}
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        logits = torch.randn(rows, size, generator=generator)
        for way, samplers in (("prose", prose), ("json", guided)):
            own = logits.clone()
            before = time.process_time()
            for sampler, token in zip(samplers, choose(own, samplers), strict=True):
                sampler.settle(token)
            spent[way].append(time.process_time() - before)
        # A row that is whole begins again.
        whole = [sampler.guide is not None and sampler.guide.complete for sampler in guided]
        fresh = [Sampler(params, (), device, grammar.guide(LIMIT)) for _ in range(rows)]
        guided = [new if done else old for old, new, done in zip(guided, fresh, whole, strict=True)]
    prose_s, json_s = (statistics.median(spent[way]) for way in ("prose", "json"))
    return Cost(size, rows, compile_s * 1e3, prose_s * 1e3, json_s * 1e3)


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mini = PreTrainedTokenizerFast.from_pretrained(MINI_DIR / "models" / "vlm")
    costs = [measure(tokenizer, arguments.rows, arguments.steps) for tokenizer in (mini, large_tokenizer())]
    for cost in costs:
        print(
            f"{cost.vocabulary:,} tokens, {cost.rows} rows: compiled once in {cost.compile_ms:.0f} ms; a step's choice "
            f"{cost.prose_step_ms:.2f} ms of prose, {cost.json_step_ms:.2f} ms of JSON: {cost.row_us:.0f} us a row"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")


if __name__ == "__main__":
    main()
