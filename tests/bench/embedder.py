"""What the embedder costs, and how near it is to what the machine allows.

    python -m tests.bench.embedder [--model FOLDER] [--parts decode,tower,known,served] [--seconds 8] [--json FILE]

The model is the embedded one unless a folder is given; `--vit-b-32` writes a ViT-B/32 with random weights first, which
costs as much as the published one. Every figure is the median of rounds in one run, and what is compared takes turns,
so that a busy machine slows both alike. Decoding and the tower are measured in CPU time of one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import io
import json
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import torch
from mondrian.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from mondrian.types.v1 import types_pb2
from PIL import Image

from services.core.channels import channel_options
from services.core.images import ImageLimits, decode
from services.core.settings import MINI_DIR, available_cpus
from services.embedder.clip import ClipEncoder, load_encoder
from services.embedder.engine import EmbeddingEngine
from services.embedder.settings import EmbedderSettings
from tests.fakes.open_clip_folder import VIT_B_32, write_folder
from tests.load.__main__ import drawn
from tests.processes import ServiceProcess, free_port, service_process

BATCH = 32
START_S = 120.0
Figures = dict[str, float]


def cpu_ms(action: Callable[[], object], rounds: int) -> float:
    """Returns the median CPU milliseconds of this thread that an action takes."""
    times = []
    for _ in range(rounds):
        begun = time.thread_time()
        action()
        times.append((time.thread_time() - begun) * 1e3)
    return statistics.median(times)


def measure_decode(encoder: ClipEncoder, rounds: int) -> dict[str, Figures]:
    """Returns the cost of decoding and resizing by kind of file, at full size and as the service does it, and the
    cosine between the two embeddings."""
    figures = {}
    for name, content in {
        "JPEG 0.7 MP": drawn(0.7, 1),
        "JPEG 12 MP": drawn(12, 2),
        "JPEG 48 MP": drawn(48, 3),
        "PNG 2 MP": _png(2, 4),
    }.items():

        def whole(content: bytes = content) -> Any:
            # As the service, without its two shortcuts: full size, and no reduction by boxes before the resize.
            image = decode(content)
            prepare = encoder.preprocessing
            size = prepare._resized(image.width, image.height)
            resized = image.resize(size, Image.Resampling.BICUBIC)
            left, top = round((size[0] - prepare.width) / 2), round((size[1] - prepare.height) / 2)
            return np.asarray(resized.crop((left, top, left + prepare.width, top + prepare.height)))

        def scaled(content: bytes = content) -> Any:
            return encoder.pixels(encoder.photograph(content))

        exact, quick = encoder.forward_images([whole(), scaled()])
        whole_ms, scaled_ms = cpu_ms(whole, rounds), cpu_ms(scaled, rounds)
        figures[name] = {
            "whole_ms": whole_ms,
            "scaled_ms": scaled_ms,
            "ratio": whole_ms / scaled_ms,
            "cosine": float(exact @ quick),
        }
    return figures


def measure_tower(encoder: ClipEncoder, rounds: int) -> dict[str, Figures]:
    """Returns the tower's CPU milliseconds a photograph by size of the batch, on one thread, and the arithmetic rate
    of a large matrix product in the same dtype."""
    torch.set_num_threads(1)
    prepare = encoder.preprocessing
    noise = np.random.default_rng(0).integers(0, 256, (BATCH, prepare.height, prepare.width, 3), dtype=np.uint8)
    figures: dict[str, Figures] = {}
    for batch in (1, 8, BATCH):
        pixels = list(noise[:batch])
        encoder.forward_images(pixels)
        figures[f"batch {batch}"] = {"ms": cpu_ms(functools.partial(encoder.forward_images, pixels), rounds) / batch}
    square = torch.randn(2048, 2048, dtype=encoder.dtype)
    square @ square
    milliseconds = cpu_ms(lambda: square @ square, rounds)
    figures["matrix product"] = {"gflops": 2 * 2048**3 / milliseconds / 1e6}
    torch.set_num_threads(available_cpus())
    return figures


async def measure_known(encoder: ClipEncoder, calls: int) -> dict[str, Figures]:
    """Returns the wall milliseconds of a photograph that is new and of one that is known, in this process."""
    engine = EmbeddingEngine(
        encoder,
        max_batch=BATCH,
        max_queue=256,
        decode_threads=available_cpus(),
        cache_entries=10_000,
        limits=ImageLimits(),
    )
    contents = list(_different(drawn(0.7, 5), calls))
    times: dict[str, list[float]] = {"new": [], "known": []}
    for content in [*contents, *contents]:
        begun = time.perf_counter()
        embedded = await engine.photograph(content, deadline=None, known=lambda identity: None)
        times["known" if embedded.cached else "new"].append((time.perf_counter() - begun) * 1e3)
    await engine.close()
    return {name: {"ms": statistics.median(values)} for name, values in times.items()}


def ceiling(encoder: ClipEncoder, contents: list[bytes]) -> float:
    """Returns the photographs a second of this process without any service: decoded in threads, batches of 32."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(available_cpus()) as pool:
        pending = deque(
            pool.submit(lambda content: encoder.pixels(encoder.photograph(content)), content) for content in contents
        )
        while pending:
            encoder.forward_images([pending.popleft().result() for _ in range(min(BATCH, len(pending)))])
    return len(contents) / (time.perf_counter() - begun)


async def rate(address: str, content: bytes, concurrency: int, seconds: float) -> Figures:
    """Returns photographs a second and the median latency of a closed loop of clients, each photograph a new one."""
    fresh = _different(content, 1_000_000, salt=os.urandom(4))
    times: list[float] = []
    async with grpc.aio.insecure_channel(address, channel_options()) as channel:
        embed = embedder_pb2_grpc.EmbedderServiceStub(channel).Embed

        async def client(until: float) -> None:
            while (begun := time.perf_counter()) < until:
                await embed(embedder_pb2.EmbedRequest(image=types_pb2.Image(content=next(fresh))), timeout=60)
                times.append((time.perf_counter() - begun) * 1e3)

        await client(time.perf_counter() + 0.5)
        times.clear()
        begun = time.perf_counter()
        await asyncio.gather(*(client(begun + seconds) for _ in range(concurrency)))
        return {"per_s": len(times) / (time.perf_counter() - begun), "median_ms": statistics.median(times)}


def measure_served(encoder: ClipEncoder, folder: Path, seconds: float, rounds: int) -> dict[str, Figures]:
    """Returns the rates of the service, of a textbook server, and of this process alone, taking turns."""
    figures: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as name:
        logs = Path(name)
        environment = {
            "MONDRIAN_EMBEDDER_MODEL_PATH": str(folder),
            "MONDRIAN_EMBEDDER_DATA_DIR": str(logs / "data"),
            "MONDRIAN_EMBEDDER_LOG_LEVEL": "warning",
        }
        port = free_port()
        command = ["tests.bench.textbook", "--model", str(folder), "--port", str(port)]
        with (
            service_process("embedder", logs, environment) as service,
            ServiceProcess("embedder", command, {}, port, logs / "textbook.log") as textbook,
        ):
            for process in (service, textbook):
                process.start().wait_serving(START_S)
            for size, content in {"200 KB": drawn(0.7, 6), "12 MP": drawn(12, 7)}.items():
                for _ in range(rounds):
                    alone = ceiling(encoder, list(_different(content, max(BATCH, round(seconds * 10)))))
                    figures.setdefault(f"{size}, alone", []).append({"per_s": alone})
                    for concurrency in (1, 8, BATCH, 2 * BATCH):
                        served = asyncio.run(rate(service.address, content, concurrency, seconds))
                        served["of_ceiling"] = served["per_s"] / alone
                        figures.setdefault(f"{size}, {concurrency} at once", []).append(served)
                    plain = asyncio.run(rate(textbook.address, content, 8, seconds))
                    plain["of_ceiling"] = plain["per_s"] / alone
                    figures.setdefault(f"{size}, textbook, 8 at once", []).append(plain)
    return {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]} for name, found in figures.items()
    }


def _different(content: bytes, count: int, salt: bytes = b"") -> Iterator[bytes]:
    """Yields files of the same photograph that no cache knows: decoders ignore what follows its end."""
    for number in range(count):
        yield content + salt + number.to_bytes(4, "big")


def _png(megapixels: float, seed: int) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(drawn(megapixels, seed))).save(out, "PNG")
    return out.getvalue()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.embedder", description="Measures the embedder.")
    parser.add_argument("--model", type=Path, default=MINI_DIR / "models" / "clip", help="an open_clip folder")
    parser.add_argument("--vit-b-32", action="store_true", help="a ViT-B/32 with random weights instead")
    parser.add_argument("--parts", default="decode,tower,known,served", help="comma-separated (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a closed loop (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    figures: dict[str, dict[str, Figures]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = write_folder(Path(name) / "ViT-B-32", VIT_B_32) if options.vit_b_32 else options.model
        encoder = load_encoder(EmbedderSettings.load(model_path=folder))
        parts: dict[str, Callable[[], dict[str, Figures]]] = {
            "decode": lambda: measure_decode(encoder, 3 * options.rounds),
            "tower": lambda: measure_tower(encoder, 3 * options.rounds),
            "known": lambda: asyncio.run(measure_known(encoder, 30)),
            "served": lambda: measure_served(encoder, folder, options.seconds, options.rounds),
        }
        print(f"load of the machine at the start: {os.getloadavg()[0]:.1f} on {available_cpus()} cores; {encoder.name}")
        for part in options.parts.split(","):
            figures[part] = parts[part]()
            for name, values in figures[part].items():
                print(f"{part}: {name}: " + ", ".join(f"{key} {value:.5g}" for key, value in values.items()))
    if options.json:
        options.json.write_text(f"{json.dumps(figures, indent=2)}\n")


if __name__ == "__main__":
    main()
