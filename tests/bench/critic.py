"""What continuous batching gains: tokens a CPU-second against one request after another and against static batches.

    python -m tests.bench.critic [--size tiny|mid] [--parts speed,first-token,adapters,cancels] [--requests 64]
                                 [--slots 8 32] [--rounds 3] [--json FILE]

The weights are random (speed does not depend on them) and no token ends a text, so that every way of serving writes
exactly the same number of tokens. CPU seconds of the whole process are compared, not wall time, so that neighbours on
the machine do not count; the ways take turns in one run, and the ratios are what to look at.

sequential: `generate`, one request after another. static: `generate` over batches in order of arrival, padded on the
left, each as long as its longest request. engine: all requests handed in at once. ceiling: the matrix products of the
language model alone, with all slots always taken: no attention, no norms, no choice of tokens, no photograph.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from services.critic import adapter_format, prompts
from services.critic.adapter_format import AdapterLimits
from services.critic.engine import Completed, Generation
from services.critic.graphs import Record
from services.critic.lora import TARGETS
from services.critic.model import Prompt, VisionLanguageModel
from services.critic.sampling import SamplingParams
from services.critic.slots import SlotEngine
from services.critic.writer import EngineOptions
from tests.bench.products import products_seconds
from tests.fakes.critic import photograph, random_adapter, random_model

SHAPES: Final = ((160, 120), (120, 160), (144, 144))
SHORTEST: Final = 16
LONGEST: Final = 160
EQUAL: Final = 64
TEXT_TOKENS: Final = 60


@dataclass(frozen=True)
class Speed:
    """Tokens a CPU-second of each way, the engine's ratio to the others, and the ceiling's to one after another."""

    lengths: str
    slots: int
    sequential: float
    static: float
    engine: float
    ceiling: float
    to_sequential: float
    to_static: float
    to_ceiling: float
    ceiling_to_sequential: float


@dataclass(frozen=True)
class FirstToken:
    """Milliseconds of wall time under load: p50 from arrival to the first token, of a step, and of a prefill."""

    slots: int
    p50_ms: float
    step_ms: float
    prefill_ms: float
    steps_and_prefill: float


@dataclass(frozen=True)
class Request:
    """A prompt and how many tokens are to be written."""

    prompt: Prompt
    tokens: int


def workload(model: VisionLanguageModel, count: int, *, equal: bool) -> list[Request]:
    """Returns `count` requests: three shapes of photographs, and lengths drawn evenly or all the same."""
    draw = random.Random(0)
    inputs = [model.vision_inputs(photograph(*shape, seed=i), f"shape-{i}") for i, shape in enumerate(SHAPES)]
    requests = []
    for number in range(count):
        image = inputs[number % len(inputs)]
        prompt = model.prompt(image, _text)
        requests.append(Request(prompt, EQUAL if equal else draw.randint(SHORTEST, LONGEST)))
    return requests


def _text(image_tokens: int) -> str:
    """Returns a prompt of as many tokens as a real one: this tokenizer's tokens are bytes."""
    return f"<|vision_start|>{prompts.IMAGE_TOKEN * image_tokens}<|vision_end|>{'w' * TEXT_TOKENS}"


def generate(model: VisionLanguageModel, requests: Sequence[Request]) -> None:
    """Writes all requests as one batch by transformers, padded on the left, until the longest is written."""
    width = max(len(request.prompt.token_ids) for request in requests)
    ids = torch.zeros(len(requests), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(requests):
        ids[row, width - len(request.prompt.token_ids) :] = torch.tensor(request.prompt.token_ids)
        mask[row, width - len(request.prompt.token_ids) :] = 1
    longest = max(request.tokens for request in requests)
    with torch.inference_mode():
        model.network.generate(
            input_ids=ids,
            attention_mask=mask,
            mm_token_type_ids=(ids == model.image_token_id).int(),
            pixel_values=torch.cat([request.prompt.image.pixels for request in requests]).to(model.dtype),
            image_grid_thw=torch.tensor([request.prompt.image.grid for request in requests]),
            max_new_tokens=longest,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )


async def by_engine(
    model: VisionLanguageModel, requests: Sequence[Request], slots: int, adapters: Sequence[Any] = ()
) -> tuple[float, list[Completed], float]:
    """Writes all requests by the engine, and returns its CPU seconds, how each went, and wall seconds a step."""
    engine = SlotEngine(model, EngineOptions(slots=slots, max_tokens=512, max_queue=len(requests)))
    engine.start()
    for number, weights in enumerate(adapters):
        await engine.load_adapter(str(number), weights)
    cpu, wall = time.process_time(), time.perf_counter()
    streams = [
        engine.submit(
            request.prompt, SamplingParams(request.tokens), adapter=str(n % len(adapters)) if adapters else None
        )
        for n, request in enumerate(requests)
    ]
    done = await asyncio.gather(*map(last_of, streams))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    step = wall / max(1, engine.stats().steps)
    await engine.close()
    return cpu, list(done), step


async def last_of(stream: Generation) -> Completed:
    """Returns the event that ends a critique."""
    events = [event async for event in stream]
    assert isinstance(events[-1], Completed)
    return events[-1]


def by_generate(model: VisionLanguageModel, requests: Sequence[Request], rows: int) -> float:
    """Writes all requests by `generate`, `rows` at a time, and returns its CPU seconds."""
    began = time.process_time()
    for start in range(0, len(requests), rows):
        generate(model, requests[start : start + rows])
    return time.process_time() - began


def speed(
    model: VisionLanguageModel, plain: VisionLanguageModel, count: int, slots: int, rounds: int, *, equal: bool
) -> Speed:
    """Returns the median over `rounds` in which the ways take turns; `plain` is the model that transformers runs."""
    requests = workload(model, count, equal=equal)
    # One after another is the same for any number: a quarter of them tells its speed.
    few = requests[: max(4, count // 4)]
    tokens = sum(request.tokens for request in requests)
    found: dict[str, list[float]] = {"sequential": [], "static": [], "engine": [], "ceiling": []}
    read = [len(request.prompt.token_ids) for request in requests]
    for _ in range(rounds):
        found["sequential"].append(sum(request.tokens for request in few) / by_generate(plain, few, 1))
        found["static"].append(tokens / by_generate(plain, requests, slots))
        seconds, done, _ = asyncio.run(by_engine(model, requests, slots))
        assert sum(len(one.tokens) for one in done) == tokens
        found["engine"].append(tokens / seconds)
        found["ceiling"].append(tokens / products_seconds(model.language, read, -(-tokens // slots), slots))
    middle = {way: statistics.median(values) for way, values in found.items()}
    return Speed(
        "equal" if equal else "mixed",
        slots,
        **{way: round(value, 1) for way, value in middle.items()},
        to_sequential=round(middle["engine"] / middle["sequential"], 2),
        to_static=round(middle["engine"] / middle["static"], 2),
        to_ceiling=round(middle["engine"] / middle["ceiling"], 2),
        ceiling_to_sequential=round(middle["ceiling"] / middle["sequential"], 2),
    )


def first_token(
    model: VisionLanguageModel, slots: int, requests: Sequence[Request], record: Record | None = None
) -> FirstToken:
    """Returns how long the first of `requests` waits for its first token while the others, one for each other slot,
    are being written."""

    async def measure() -> FirstToken:
        options = EngineOptions(slots=slots, max_tokens=4096, max_queue=slots, vision_cache_bytes=0)
        engine = SlotEngine(model, options, record=record)
        engine.start()
        newcomer, *others = requests
        streams = [engine.submit(request.prompt, SamplingParams(3_500)) for request in others]
        for stream in streams:
            await anext(stream)
        steps, began = engine.stats().steps, time.perf_counter()
        waits, reads = [], []
        for _ in range(20):
            done = await last_of(engine.submit(newcomer.prompt, SamplingParams(4)))
            waits.append(done.first_token_s)
            reads.append(done.prefill_s)
        alone = time.perf_counter() - began - sum(reads)
        step = alone / max(1, engine.stats().steps - steps)
        for stream in streams:
            stream.cancel()
        await engine.close()
        wait, read = statistics.median(waits), statistics.median(reads)
        return FirstToken(
            slots, round(wait * 1e3, 2), round(step * 1e3, 2), round(read * 1e3, 2), round((wait - read) / step, 2)
        )

    return asyncio.run(measure())


def adapter_cost(model: VisionLanguageModel, count: int, rounds: int) -> dict[int, float]:
    """Returns CPU seconds of the same requests with 1, 2, 4 and 8 different adapters, divided by those of the base."""
    base = adapter_format.base_of(model.network, name=model.name, fingerprint=model.fingerprint)
    requests = workload(model, count, equal=True)
    with tempfile.TemporaryDirectory() as folder:
        folders = [
            random_adapter(Path(folder) / f"a{i}", base, seed=i, rank=8, target_modules=sorted(TARGETS))
            for i in range(8)
        ]
        weights = [adapter_format.read(path, base, AdapterLimits()).weights for path in folders]
    taken: dict[int, list[float]] = {0: [], 1: [], 2: [], 4: [], 8: []}
    for _ in range(rounds):
        for number in taken:
            taken[number].append(asyncio.run(by_engine(model, requests, 8, weights[:number]))[0])
    bare = statistics.median(taken.pop(0))
    return {number: round(statistics.median(seconds) / bare, 3) for number, seconds in taken.items()}


async def cancelled(model: VisionLanguageModel, count: int) -> dict[str, int]:
    """Returns what is left in the engine after `count` critiques were cancelled at random moments."""
    engine = SlotEngine(model, EngineOptions(slots=8, max_tokens=512, max_queue=count, vision_cache_bytes=0))
    engine.start()
    draw = random.Random(1)

    async def leave(request: Request) -> None:
        stream = engine.submit(request.prompt, SamplingParams(300))
        for _ in range(draw.randint(0, 60)):
            await engine.turn()
        stream.cancel()

    await asyncio.gather(*(leave(request) for request in workload(model, count, equal=True)))
    while engine.stats().rows or engine.stats().waiting:
        await engine.turn()
    stats = engine.stats()
    await engine.close()
    return {
        "cancelled": stats.cancelled,
        "rows": stats.rows,
        "waiting": stats.waiting,
        "photograph_bytes": stats.vision_cache_bytes,
    }


def main() -> None:
    """Runs the measurements and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "mid"), default="tiny")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--slots", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="speed,first-token,adapters,cancels")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = random_model(arguments.size)
    size = sum(parameter.numel() for parameter in model.network.parameters())
    print(f"random Qwen3-VL of {size / 1e6:.1f} M parameters, {model.dtype}, one thread, {arguments.requests} requests")
    parts, report = arguments.parts.split(","), dict[str, Any]()
    if "speed" in parts:
        report["speed"] = _speeds(model, arguments)
    if "first-token" in parts:
        report["first_token"] = _waits(model, arguments)
    if "adapters" in parts:
        costs = adapter_cost(model, arguments.requests, arguments.rounds)
        print("CPU over the bare base by number of different adapters (rank 8, all Linears):", costs)
        report["adapters"] = costs
    if "cancels" in parts:
        left = asyncio.run(cancelled(model, 200))
        print("after 200 cancels:", left)
        report["cancels"] = left
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def _speeds(model: VisionLanguageModel, arguments: argparse.Namespace) -> list[Any]:
    plain = random_model(arguments.size)
    print(
        f"{'lengths':8}{'slots':>6}{'sequential':>12}{'static':>9}{'engine':>9}{'ceiling':>9}"
        "   engine to sequential, to static, to ceiling; ceiling to sequential"
    )
    speeds = []
    for slots in arguments.slots:
        for equal in (False, True):
            one = speed(model, plain, arguments.requests, slots, arguments.rounds, equal=equal)
            print(
                f"{one.lengths:8}{one.slots:6}{one.sequential:12.0f}{one.static:9.0f}{one.engine:9.0f}"
                f"{one.ceiling:9.0f}   {one.to_sequential:.1f} x, {one.to_static:.2f} x, {one.to_ceiling:.2f}; "
                f"{one.ceiling_to_sequential:.1f} x",
                flush=True,
            )
            speeds.append(asdict(one))
    return speeds


def _waits(model: VisionLanguageModel, arguments: argparse.Namespace) -> list[Any]:
    waits = [first_token(model, slots, workload(model, slots, equal=True)) for slots in arguments.slots]
    for wait in waits:
        print(
            f"first token beside {wait.slots - 1} rows: p50 {wait.p50_ms} ms = prefill {wait.prefill_ms} ms + "
            f"{wait.steps_and_prefill} steps of {wait.step_ms} ms"
        )
    return [asdict(wait) for wait in waits]


if __name__ == "__main__":
    main()
