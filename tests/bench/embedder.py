"""What the embedder costs, and how near it is to what the machine allows.

    python -m tests.bench.embedder [--vit-b-32] [--engine openvino] [--parts decode,tower,known,served,full,references]

The model is the embedded one unless a folder is given; `--vit-b-32` writes a ViT-B/32 with random weights first, which
costs as much as the published one. Every figure is the median of rounds in one run, and what is compared takes turns,
so that a busy machine slows both alike. Decoding and the tower are measured in CPU time of one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from services.core.models import torchvision_shim
from services.core.settings import MINI_DIR, available_cpus
from services.embedder.clip import ClipEncoder, load_encoder
from services.embedder.encoder import Encoder
from services.embedder.engine import EmbeddingEngine
from services.embedder.loading import load
from services.embedder.settings import EmbedderSettings
from tests.bench.measuring import (
    Figures,
    cpu_ms,
    different,
    print_figures,
    print_load,
    start_as_a_service,
    write_figures,
)
from tests.bench.references import measure_references
from tests.bench.served import measure_full, measure_served
from tests.fakes.open_clip_folder import VIT_B_32, write_folder
from tests.load.__main__ import drawn
from tests.pictures import encoded

BATCH = 32


def measure_decode(clip: ClipEncoder, rounds: int) -> dict[str, Figures]:
    """Returns the CPU milliseconds of a photograph by kind of file: by open_clip's own transform, as the service
    decodes and resizes it, and of reading a JPEG's bits alone (at an eighth, the smallest scale there is), below which
    nothing that reads the file can come; and the cosine of the embeddings to those of open_clip's pixels."""
    prepare = clip.preprocessing
    torchvision_shim.install()
    from open_clip.transform import image_transform

    transform = image_transform(prepare.height, is_train=False, mean=prepare.mean, std=prepare.std)
    mean, std = (np.asarray(values, np.float32) for values in (prepare.mean, prepare.std))
    eye = Image.fromarray(skimage.data.retina())
    figures = {}
    for name, content in {
        "JPEG 2 MP, of an eye": encoded(eye, "JPEG", quality=90),
        "JPEG 12 MP, of the eye enlarged": encoded(_enlarged(eye, 12), "JPEG", quality=90),
        "JPEG 48 MP, of the eye enlarged": encoded(_enlarged(eye, 48), "JPEG", quality=90),
        "JPEG 0.7 MP, noise": drawn(0.7, 1),
        "JPEG 12 MP, noise": drawn(12, 2),
        "JPEG 48 MP, noise": drawn(48, 3),
        "PNG 2 MP, of the eye": encoded(eye, "PNG"),
    }.items():

        def stock(content: bytes = content) -> Any:
            return transform(Image.open(io.BytesIO(content)))

        def ours(content: bytes = content) -> Any:
            return clip.pixels(clip.photograph(content))

        def bits(content: bytes = content) -> None:
            image = Image.open(io.BytesIO(content))
            image.draft(None, (1, 1))
            image.load()

        exact = np.rint((stock().permute(1, 2, 0).numpy() * std + mean) * 255).astype(np.uint8)
        embeddings = clip.forward_images([exact, ours()])
        took = cpu_ms({"stock_ms": stock, "ours_ms": ours} | ({"bits_ms": bits} if "JPEG" in name else {}), rounds)
        megapixels = np.prod(Image.open(io.BytesIO(content)).size) / 1e6
        figures[name] = {
            **took,
            "bits_a_pixel": len(content) * 8 / 1e6 / float(megapixels),
            "ratio": took["stock_ms"] / took["ours_ms"],
            "cosine": float(embeddings[0] @ embeddings[1]),
        }
        if "bits_ms" in took:
            figures[name]["greatest_ratio"] = took["stock_ms"] / took["bits_ms"]
    return figures


def measure_tower(encoder: Encoder, clip: ClipEncoder, rounds: int) -> dict[str, Figures]:
    """Returns the tower's CPU milliseconds a photograph by size of the batch, on one thread, and its arithmetic rate
    beside that of a large matrix product in the same dtype."""
    torch.set_num_threads(1)
    prepare = clip.preprocessing
    noise = np.random.default_rng(0).integers(0, 256, (BATCH, prepare.height, prepare.width, 3), dtype=np.uint8)
    square = torch.randn(2048, 2048, dtype=clip.dtype)
    actions: dict[str, Callable[[], object]] = {"matrix product": lambda: square @ square}
    for batch in (1, 8, BATCH):
        actions[f"batch {batch}"] = functools.partial(encoder.forward_images, list(noise[:batch]))
    for action in actions.values():
        action()
    took = cpu_ms(actions, rounds)
    peak = 2 * 2048**3 / took.pop("matrix product") / 1e6
    figures = {"matrix product": {"gflops": peak}}
    each = flops(clip)
    for name, milliseconds in took.items():
        batch = int(name.split()[1])
        rate = each * batch / milliseconds / 1e6
        figures[name] = {"ms": milliseconds / batch, "gflops": rate, "of_peak": rate / peak}
    torch.set_num_threads(available_cpus())
    return figures


def flops(clip: ClipEncoder) -> float:
    """Returns the floating-point operations of the tower for one photograph, counted by torch."""
    fast = torch.backends.mha.get_fastpath_enabled()
    # The counter knows the parts of attention, and not the whole.
    torch.backends.mha.set_fastpath_enabled(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        clip.image_tower()(torch.zeros(1, 3, clip.preprocessing.height, clip.preprocessing.width))
    torch.backends.mha.set_fastpath_enabled(fast)
    return float(counter.get_total_flops())


async def measure_known(encoder: Encoder, calls: int) -> dict[str, Figures]:
    """Returns the wall milliseconds of a photograph that is new and of one that is known, in this process."""
    engine = EmbeddingEngine(encoder, EmbedderSettings.load(max_batch=BATCH))
    contents = list(different(drawn(0.7, 5), calls))
    times: dict[str, list[float]] = {"new": [], "known": []}
    for content in [*contents, *contents]:
        begun = time.perf_counter()
        embedded = await engine.photograph(content, deadline=None)
        times["known" if embedded.cached else "new"].append((time.perf_counter() - begun) * 1e3)
    await engine.close()
    return {name: {"ms": statistics.median(values)} for name, values in times.items()}


def _enlarged(image: Image.Image, megapixels: float) -> Image.Image:
    scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def main() -> None:
    """Measures and prints."""
    parts = ("decode", "tower", "known", "served", "full", "references")
    parser = argparse.ArgumentParser(prog="python -m tests.bench.embedder", description="Measures the embedder.")
    parser.add_argument("--model", type=Path, default=MINI_DIR / "models" / "clip", help="an open_clip folder")
    parser.add_argument("--vit-b-32", action="store_true", help="a ViT-B/32 with random weights instead")
    parser.add_argument("--engine", choices=("torch", "openvino"), default="torch", help="(default %(default)s)")
    parser.add_argument("--parts", default=",".join(parts), help="comma-separated (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a closed loop (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    start_as_a_service()
    figures: dict[str, dict[str, Figures]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = write_folder(Path(name) / "ViT-B-32", VIT_B_32) if options.vit_b_32 else options.model
        settings = EmbedderSettings.load(model_path=folder, engine=options.engine, data_dir=Path(name) / "data")
        clip, encoder = load_encoder(settings), load(settings)
        measured: dict[str, Callable[[], dict[str, Figures]]] = {
            "decode": lambda: measure_decode(clip, 3 * options.rounds),
            "tower": lambda: measure_tower(
                # On one thread, as the matrix product is.
                load(settings.model_copy(update={"torch_threads": 1})),
                clip,
                5 * options.rounds,
            ),
            "known": lambda: asyncio.run(measure_known(encoder, 30)),
            "served": lambda: measure_served(encoder, settings, options.seconds, options.rounds),
            "full": lambda: measure_full(settings, options.rounds),
            "references": lambda: measure_references(encoder, settings, options.rounds),
        }
        print_load(f"{encoder.name} on {options.engine}")
        for part in options.parts.split(","):
            figures[part] = measured[part]()
            print_figures(part, figures[part])
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
