"""What pre-computing saves: one photograph against 24 references, pre-computed, or embedded when it is asked."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import grpc.aio
import numpy as np
from mondrian.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.advisors import load_advisor
from services.core.commands.progress import progress
from services.core.images.reading import ImageLimits
from services.core.releases import ReleaseStore
from services.core.rpc.channels import channel_options
from services.core.settings import available_cpus
from services.embedder.encoder import Encoder
from services.embedder.precomputation import precompute
from services.embedder.settings import EmbedderSettings
from tests.bench.measuring import Figures, different
from tests.bench.served import ceiling, embedder
from tests.load.__main__ import drawn
from tests.processes import child_environment

REFERENCES: Final = 24
MEGAPIXELS: Final = 6.0
CALLS: Final = 5

COLD = """
import sys
from pathlib import Path
from services.embedder.loading import load
from services.embedder.settings import EmbedderSettings
from tests.bench.references import on_demand
query, *files = map(Path, sys.argv[1:])
on_demand(load(EmbedderSettings.load()), query.read_bytes(), [file.read_bytes() for file in files])
"""


def on_demand(encoder: Encoder, query: bytes, references: Sequence[bytes]) -> list[int]:
    """Returns the three nearest of references that are embedded for this one question: decoded in threads and run as
    one batch, as well as it can be done."""
    with ThreadPoolExecutor(available_cpus()) as pool:
        pixels = list(pool.map(lambda content: encoder.pixels(encoder.photograph(content)), [query, *references]))
    vectors = encoder.forward_images(pixels)
    return [int(one) for one in np.argsort(-(vectors[1:] @ vectors[0]))[:3]]


def measure_references(encoder: Encoder, settings: EmbedderSettings, rounds: int) -> dict[str, Figures]:
    """Returns the milliseconds of a question: pre-computed (through the service), on demand with the model loaded (one
    photograph after another, and in one batch) and in a new process, and of a photograph that is known; medians of
    rounds in which they take turns."""
    contents = [drawn(MEGAPIXELS, 100 + number) for number in range(REFERENCES)]
    kinds = ("pre-computed", "known", "on demand, one by one", "on demand, warm", "on demand, cold")
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _write(folder / "bench", contents)
        served = settings.model_copy(update={"data_dir": folder / "data"})
        made = _precomputed(encoder, served, folder / "bench", contents)
        fresh = different(drawn(MEGAPIXELS, 99), 1_000_000, salt=os.urandom(4))
        with embedder(folder, served) as service:
            for _ in range(rounds):
                for kind, took in asyncio.run(_asked(service.address, [next(fresh) for _ in range(CALLS)])).items():
                    times[kind] += took
                query = next(fresh)
                begun = time.perf_counter()
                for content in (query, *contents):
                    encoder.forward_images([encoder.pixels(encoder.photograph(content))])
                times["on demand, one by one"].append((time.perf_counter() - begun) * 1e3)
                begun = time.perf_counter()
                on_demand(encoder, query, contents)
                times["on demand, warm"].append((time.perf_counter() - begun) * 1e3)
                (folder / "query.jpg").write_bytes(query)
                begun = time.perf_counter()
                _cold(served, folder / "query.jpg", files)
                times["on demand, cold"].append((time.perf_counter() - begun) * 1e3)
    found = {kind: {"ms": statistics.median(values)} for kind, values in times.items()}
    for figures in found.values():
        figures["of_pre_computed"] = figures["ms"] / found["pre-computed"]["ms"]
    found["precompute"] = made
    return found


def _precomputed(encoder: Encoder, settings: EmbedderSettings, advisor: Path, contents: Sequence[bytes]) -> Figures:
    """Returns how many photographs a second precompute embeds, thumbnails, catalogue and release included, beside this
    process's embedding of the same ones."""
    before = ceiling(encoder, list(contents))
    begun, cpu = time.perf_counter(), time.process_time()
    precompute(
        load_advisor(advisor, "bench"),
        encoder,
        ReleaseStore(settings.releases_root),
        limits=ImageLimits.of(settings),
        threads=available_cpus(),
        report=lambda title, total: progress(title, total, quiet=True),
    )
    seconds, cpu_ms = time.perf_counter() - begun, (time.process_time() - cpu) * 1e3 / len(contents)
    after = ceiling(encoder, list(contents))
    alone = {key: (before[key] + after[key]) / 2 for key in before}
    return {
        "per_s": len(contents) / seconds,
        "cpu_ms": cpu_ms,
        "of_ceiling": len(contents) / seconds / alone["per_s"],
        "of_ceiling_in_cpu": alone["cpu_ms"] / cpu_ms,
    }


async def _asked(address: str, queries: list[bytes]) -> dict[str, list[float]]:
    """Returns the milliseconds of questions to the service, each asked twice: once new, once known."""
    times: dict[str, list[float]] = {"pre-computed": [], "known": []}
    async with grpc.aio.insecure_channel(address, channel_options()) as channel:
        search = embedder_pb2_grpc.EmbedderServiceStub(channel).SearchReferences
        for query in queries:
            request = embedder_pb2.SearchReferencesRequest(advisor="bench", image=types_pb2.Image(content=query))
            for kind in times:
                begun = time.perf_counter()
                answer = await search(request, timeout=60)
                times[kind].append((time.perf_counter() - begun) * 1e3)
                assert len(answer.neighbors) == 3
                assert answer.cached == (kind == "known")
    return times


def _write(folder: Path, contents: Sequence[bytes]) -> list[Path]:
    (folder / "references").mkdir(parents=True)
    files = [folder / "references" / f"{number:02d}.jpg" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    return files


def _cold(settings: EmbedderSettings, query: Path, files: Sequence[Path]) -> None:
    environment = {
        "MONDRIAN_EMBEDDER_MODEL_PATH": str(settings.encoder_folder),
        "MONDRIAN_EMBEDDER_ENGINE": settings.engine,
        "MONDRIAN_EMBEDDER_ENGINE_CACHE_DIR": str(settings.engine_cache),
    }
    subprocess.run(
        [sys.executable, "-c", COLD, str(query), *map(str, files)], env=child_environment(environment), check=True
    )
