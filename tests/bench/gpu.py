"""What a GPU makes of the large models: the critic's speed, and how near the embedder is to what the device allows.

    python -m tests.bench.gpu [--parts critic,embedder] [--rounds 3] [--json FILE]

The critic is a Qwen3-VL of the 4B's shape and the embedder a ViT-B/32, both with random weights made on the device in
bfloat16: speed does not depend on them, and nothing needs to be downloaded. No token ends a text, so that a critique
has exactly the tokens that were asked for. Figures are medians of wall time. Without a GPU it says so, and ends with 2.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from services.core.models import torchvision_shim
from services.critic import adapter_format
from services.critic.engine import Completed
from services.critic.graphs import Record, record_cuda_graph
from services.critic.lora import AdapterWeights
from services.critic.model import VisionLanguageModel
from services.critic.sampling import SamplingParams
from services.critic.slots import SlotEngine
from services.critic.writer import EngineOptions
from services.embedder.clip import load_encoder
from services.embedder.settings import EmbedderSettings
from tests.bench.critic import Request, first_token, last_of
from tests.fakes.critic import photograph, tiny_tokenizer
from tests.fakes.open_clip_folder import VIT_B_32, write_folder

torchvision_shim.install()

from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration  # noqa: E402 - see services.critic.model
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil  # noqa: E402


@dataclass(frozen=True)
class Shape:
    """The measures of a Qwen3-VL, and what is asked of it: photographs of `side` pixels, `text` tokens of words,
    critiques of `tokens`, `slots` rows, adapters of `rank`."""

    hidden: int = 2560
    mlp: int = 9728
    layers: int = 36
    heads: int = 32
    key_heads: int = 8
    head: int = 128
    rope: tuple[int, int, int] = (24, 20, 20)
    vocabulary: int = 151_936
    tower: int = 1024
    tower_mlp: int = 4096
    tower_depth: int = 24
    deepstack: tuple[int, ...] = (5, 11, 17)
    side: int = 768
    text: int = 200
    tokens: int = 200
    slots: int = 32
    rank: int = 16


QWEN3_VL_4B: Final = Shape()
SMALL: Final = Shape(
    hidden=64, mlp=128, layers=3, heads=4, key_heads=2, head=16, rope=(4, 2, 2), vocabulary=300, tower=64, tower_mlp=64,
    tower_depth=2, deepstack=(0,), side=64, text=20, tokens=8, slots=4, rank=2,
)  # fmt: skip


@dataclass(frozen=True)
class CriticFigures:
    """Seconds of one critique alone and of its first token, critiques a second with all slots taken, milliseconds of a
    newcomer's first token, of its prefill and of a step beside them, and the time that eight adapters add (1: none)."""

    alone_s: float
    alone_first_s: float
    critiques_per_s: float
    first_token_ms: float
    prefill_ms: float
    step_ms: float
    adapters: float


def random_qwen(shape: Shape, device: torch.device, dtype: torch.dtype) -> VisionLanguageModel:
    """Returns a random Qwen3-VL of a shape, made on the device."""
    tokenizer = tiny_tokenizer()
    ids = tokenizer.get_vocab()
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": shape.vocabulary, "hidden_size": shape.hidden, "intermediate_size": shape.mlp,
            "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_heads, "head_dim": shape.head, "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": list(shape.rope)},
        },
        vision_config={
            "depth": shape.tower_depth, "hidden_size": shape.tower, "intermediate_size": shape.tower_mlp,
            "num_heads": max(1, shape.tower // 64), "patch_size": 16, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "out_hidden_size": shape.hidden, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": list(shape.deepstack),
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            network: Any = Qwen3VLForConditionalGeneration(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 32 * 32, "longest_edge": shape.side**2},
        patch_size=16, temporal_patch_size=2, merge_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    model = VisionLanguageModel(
        network, tokenizer, processor, name="random", fingerprint="0" * 64, max_image_tokens=(shape.side // 32) ** 2
    )
    model.end_ids = frozenset({-1})
    return model


def random_adapters(model: VisionLanguageModel, rank: int, count: int) -> list[AdapterWeights]:
    """Returns adapters of every Linear."""
    base = adapter_format.base_of(model.network, name=model.name, fingerprint=model.fingerprint)
    one = {
        (layer, name): (
            torch.randn(rank, inputs, dtype=model.dtype) * 0.01,
            torch.randn(outputs, rank, dtype=model.dtype) * 0.01,
        )
        for layer in range(base.layers)
        for name, (outputs, inputs) in base.shapes.items()
    }
    return [AdapterWeights(rank, 1.0 + number / 8, one) for number in range(count)]


def requests_of(model: VisionLanguageModel, shape: Shape, count: int) -> list[Request]:
    """Returns requests with a photograph each."""

    def write(image_tokens: int) -> str:
        return f"<|vision_start|>{'<|image_pad|>' * image_tokens}<|vision_end|>{'w' * shape.text}"

    requests = []
    for number in range(count):
        image = model.vision_inputs(photograph(shape.side, shape.side, seed=number), f"photograph-{number}")
        prompt = model.prompt(image, write)
        requests.append(Request(prompt, shape.tokens))
    return requests


def measure_critic(model: VisionLanguageModel, shape: Shape, record: Record | None, rounds: int) -> CriticFigures:
    """Returns the critic's figures, with decode steps that are recorded or not."""
    requests = requests_of(model, shape, 2 * shape.slots)
    room = max(len(request.prompt.token_ids) for request in requests) + shape.tokens
    adapters = random_adapters(model, shape.rank, 8)
    options = EngineOptions(slots=shape.slots, max_tokens=room, max_queue=2 * shape.slots, vision_cache_bytes=0)

    async def measure() -> CriticFigures:
        engine = SlotEngine(model, options, record=record)
        engine.start()

        async def wall(count: int, names: Sequence[str] = ()) -> tuple[float, list[Completed]]:
            begun = time.perf_counter()
            streams = [
                engine.submit(
                    request.prompt, SamplingParams(request.tokens), adapter=names[n % len(names)] if names else None
                )
                for n, request in enumerate(requests[:count])
            ]
            done = list(await asyncio.gather(*map(last_of, streams)))
            return time.perf_counter() - begun, done

        await wall(1)  # what is compiled, allocated or recorded once
        await wall(2 * shape.slots)
        alone = [await wall(1) for _ in range(rounds)]
        for number, weights in enumerate(adapters):
            await engine.load_adapter(str(number), weights)
        names = [str(number) for number in range(len(adapters))]
        await wall(2 * shape.slots, names)
        bare, voiced = [], []
        for _ in range(rounds):
            bare.append((await wall(2 * shape.slots))[0])
            voiced.append((await wall(2 * shape.slots, names))[0])
        await engine.close()
        under_load = statistics.median(bare)
        return CriticFigures(
            alone_s=statistics.median(seconds for seconds, _ in alone),
            alone_first_s=statistics.median(done[0].first_token_s for _, done in alone),
            critiques_per_s=len(requests) / under_load,
            first_token_ms=0.0, prefill_ms=0.0, step_ms=0.0,
            adapters=statistics.median(voiced) / under_load,
        )  # fmt: skip

    figures = asyncio.run(measure())
    wait = first_token(model, shape.slots, requests[: shape.slots], record)
    return replace(figures, first_token_ms=wait.p50_ms, prefill_ms=wait.prefill_ms, step_ms=wait.step_ms)


def measure_embedder(
    config: dict[str, Any], device: torch.device, dtype: torch.dtype, batches: Sequence[int], square: int, rounds: int
) -> dict[str, float]:
    """Returns photographs a second of a random CLIP's image tower by batch, and which share of the rate of a large
    matrix product (`square` rows and columns, same dtype and run) that is."""
    name = str(dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory() as folder:
        written = write_folder(Path(folder) / "random-clip", config)
        encoder = load_encoder(EmbedderSettings(model_path=written, device=str(device), dtype=name))  # type: ignore[arg-type]
    vision = config["vision_cfg"]
    matrix = torch.randn(square, square, device=device, dtype=dtype)
    peak = 2 * square**3 / _seconds(lambda: matrix @ matrix, device, rounds)
    figures = {"matrix_product_tflops": peak / 1e12}
    side = vision["image_size"]
    for batch in batches:
        noise = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
        seconds = _seconds(lambda pixels=list(noise): encoder.forward_images(pixels), device, rounds)  # type: ignore[misc]
        figures[f"batch_{batch}_per_s"] = batch / seconds
        figures[f"batch_{batch}_share"] = batch * tower_flops(vision) / seconds / peak
    return figures


def tower_flops(vision: dict[str, Any]) -> float:
    """Returns the floating point operations of a vision transformer for one photograph, products alone."""
    width, layers = vision["width"], vision["layers"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    tokens = patches + 1
    embedding = 2 * patches * 3 * vision["patch_size"] ** 2 * width
    return float(embedding + layers * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width))


def _seconds(action: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Returns the median wall seconds of an action, the device's work included."""

    def done() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    action()
    times = []
    for _ in range(rounds):
        begun = done()
        action()
        times.append(done() - begun)
    return statistics.median(times)


def main() -> int:
    """Runs the measurements and prints them; 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="critic,embedder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU that torch can use here, so nothing was measured.", file=sys.stderr)
        return 2
    device, dtype = torch.device("cuda:0"), torch.bfloat16
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(device), "torch": torch.__version__}
    print(f"{report['device']}, torch {report['torch']}, {dtype}, random weights")
    if "critic" in arguments.parts:
        model = random_qwen(QWEN3_VL_4B, device, dtype)
        for name, record in (("kernel by kernel", None), ("CUDA graphs", record_cuda_graph)):
            figures = measure_critic(model, QWEN3_VL_4B, record, arguments.rounds)
            report[f"critic, {name}"] = asdict(figures)
            print(
                f"critic, {name}: {QWEN3_VL_4B.tokens} tokens alone in {figures.alone_s:.2f} s (the first after "
                f"{figures.alone_first_s:.2f} s); {figures.critiques_per_s:.1f} critiques a second at "
                f"{QWEN3_VL_4B.slots} rows; first token beside {QWEN3_VL_4B.slots - 1} others p50 "
                f"{figures.first_token_ms:.0f} ms (prefill {figures.prefill_ms:.0f}, a step {figures.step_ms:.1f}); "
                f"eight adapters: {figures.adapters:.2f} times the base model's time"
            )
        del model
        torch.cuda.empty_cache()
    if "embedder" in arguments.parts:
        found = measure_embedder(VIT_B_32, device, dtype, (1, 32, 256), 8192, 10 * arguments.rounds)
        report["embedder"] = found
        print("embedder, ViT-B/32:", {name: round(value, 3) for name, value in found.items()})
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
