"""The embedder as a process under load, beside this process alone and a textbook server around the same model."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mondrian.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.rpc.channels import channel_options
from services.core.settings import available_cpus
from services.embedder.encoder import Encoder
from services.embedder.settings import EmbedderSettings
from tests.bench.measuring import Figures, different, medians, percentile, wall_ms
from tests.load.__main__ import drawn
from tests.processes import ServiceProcess, free_port, service_process

BATCH: Final = 32
START_S: Final = 300.0
ALONE_AT_ONCE: Final = 10
"""Photographs that are measured one by one."""


def ceiling(encoder: Encoder, contents: list[bytes]) -> Figures:
    """Returns the photographs a second of this process without any service, decoded in threads and run in batches of
    32, and the CPU milliseconds of each."""
    begun, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(available_cpus()) as pool:
        pending = deque(
            pool.submit(lambda content: encoder.pixels(encoder.photograph(content)), content) for content in contents
        )
        while pending:
            encoder.forward_images([pending.popleft().result() for _ in range(min(BATCH, len(pending)))])
    return {
        "per_s": len(contents) / (time.perf_counter() - begun),
        "cpu_ms": (time.process_time() - cpu) * 1e3 / len(contents),
    }


async def rate(process: ServiceProcess, contents: Iterator[bytes], concurrency: int, seconds: float) -> Figures:
    """Returns photographs a second, CPU milliseconds of the service and of the clients, which share the cores with it,
    and the median latency of a closed loop of clients who send one photograph after another."""
    times: list[float] = []
    async with _embed(process) as embed:

        async def client(until: float) -> None:
            while (begun := time.perf_counter()) < until:
                await embed(_request(next(contents)), timeout=60)
                times.append((time.perf_counter() - begun) * 1e3)

        await client(time.perf_counter() + 0.5)
        times.clear()
        begun, cpu, own = time.perf_counter(), process.cpu_seconds(), time.process_time()
        await asyncio.gather(*(client(begun + seconds) for _ in range(concurrency)))
        return {
            "per_s": len(times) / (time.perf_counter() - begun),
            "cpu_ms": (process.cpu_seconds() - cpu) * 1e3 / len(times),
            "clients_ms": (time.process_time() - own) * 1e3 / len(times),
            "median_ms": statistics.median(times),
        }


async def added(process: ServiceProcess, encoder: Encoder, content: bytes) -> Figures:
    """Returns the median milliseconds of one photograph in this process and through the service, taking turns."""
    fresh = different(content, 1_000_000, salt=os.urandom(4))
    loop = asyncio.get_running_loop()
    async with _embed(process) as embed:

        def through() -> None:
            asyncio.run_coroutine_threadsafe(_answered(embed, next(fresh)), loop).result()

        def bare() -> None:
            encoder.forward_images([encoder.pixels(encoder.photograph(next(fresh)))])

        took = await asyncio.to_thread(wall_ms, {"bare_ms": bare, "served_ms": through}, ALONE_AT_ONCE)
    return {**took, "added_ms": took["served_ms"] - took["bare_ms"]}


def measure_served(encoder: Encoder, settings: EmbedderSettings, seconds: float, rounds: int) -> dict[str, Figures]:
    """Returns the rates of the service, of a textbook server, and of this process alone, taking turns."""
    figures: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as name, embedder(Path(name), settings) as service:
        port = free_port()
        command = ["tests.bench.textbook", "--model", str(settings.encoder_folder), "--port", str(port)]
        with ServiceProcess("embedder", command, {}, port, Path(name) / "textbook.log") as textbook:
            textbook.start().wait_serving(START_S)
            for size, content in {"200 KB": drawn(0.7, 6), "12 MP": drawn(12, 7)}.items():
                for _ in range(rounds):
                    figures.setdefault(f"{size}, one", []).append(asyncio.run(added(service, encoder, content)))
                    fresh = different(content, 1_000_000, salt=os.urandom(4))
                    contents = list(itertools.islice(fresh, max(2 * BATCH, round(seconds * 10))))
                    before = ceiling(encoder, contents)
                    of_round = {
                        f"{size}, {concurrency} at once": asyncio.run(rate(service, fresh, concurrency, seconds))
                        for concurrency in (1, 8, BATCH, 2 * BATCH)
                    }
                    of_round[f"{size}, textbook, 8 at once"] = asyncio.run(rate(textbook, fresh, 8, seconds))
                    # A photograph that is known costs what receiving it and recognising it costs.
                    known = asyncio.run(rate(service, itertools.repeat(content), 8, seconds / 3))
                    # Before and after, since others on the machine come and go.
                    after = ceiling(encoder, contents)
                    alone = {key: (before[key] + after[key]) / 2 for key in before}
                    figures.setdefault(f"{size}, alone", []).append(alone)
                    for title, found in of_round.items():
                        found["of_ceiling"] = found["per_s"] / alone["per_s"]
                        found["of_ceiling_in_cpu"] = alone["cpu_ms"] / found["cpu_ms"]
                        # What sending and receiving leave of the cores that all share.
                        carried = found["clients_ms"] + known["cpu_ms"]
                        found["of_ceiling_at_most"] = alone["cpu_ms"] / (alone["cpu_ms"] + carried)
                        figures.setdefault(title, []).append(found)
                    figures.setdefault(f"{size}, known, 8 at once", []).append(known)
    return medians(figures)


def measure_full(settings: EmbedderSettings, rounds: int) -> dict[str, Figures]:
    """Returns the milliseconds in which a full service refuses, seen by a client of its own, and beside them those of a
    health check, the least that a call can take on a machine so busy."""
    figures: dict[str, list[Figures]] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        embedder(Path(name), settings, MONDRIAN_EMBEDDER_MAX_QUEUE="32", MONDRIAN_EMBEDDER_MAX_BATCH="8") as service,
    ):
        for _ in range(rounds):
            figures.setdefault("200 KB", []).append(asyncio.run(refusals(service, drawn(0.7, 8), permits=40)))
    return medians(figures)


async def refusals(process: ServiceProcess, content: bytes, permits: int) -> Figures:
    """Returns how long a refusal takes while `permits` photographs are in the service all the time."""
    fresh = different(content, 1_000_000, salt=os.urandom(4))
    refused: list[float] = []
    checked: list[float] = []
    stopping = asyncio.Event()
    async with _embed(process) as embed, _embed(process) as own:

        async def client() -> None:
            while not stopping.is_set():
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await embed(_request(next(fresh)), timeout=60)

        clients = [asyncio.create_task(client()) for _ in range(permits + 2)]
        async with grpc.aio.insecure_channel(process.address, channel_options()) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while len(refused) < 50:
                begun = time.perf_counter()
                await health.Check(health_pb2.HealthCheckRequest(), timeout=60)
                checked.append((time.perf_counter() - begun) * 1e3)
                begun = time.perf_counter()
                try:
                    await own(_request(next(fresh)), timeout=60)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
                    refused.append((time.perf_counter() - begun) * 1e3)
        stopping.set()
        await asyncio.gather(*clients)
    return {
        "refused_ms": statistics.median(refused),
        "refused_p90_ms": percentile(refused, 90),
        "health_ms": statistics.median(checked),
    }


@contextlib.contextmanager
def embedder(folder: Path, settings: EmbedderSettings, **further: str) -> Iterator[ServiceProcess]:
    """Yields an embedder process with the model and engine of the settings, its data below `folder`."""
    environment = {
        "MONDRIAN_EMBEDDER_MODEL_PATH": str(settings.encoder_folder),
        "MONDRIAN_EMBEDDER_ENGINE": settings.engine,
        "MONDRIAN_EMBEDDER_ENGINE_CACHE_DIR": str(settings.engine_cache),
        "MONDRIAN_EMBEDDER_DATA_DIR": str(folder / "data"),
        "MONDRIAN_EMBEDDER_LOG_LEVEL": "warning",
        **further,
    }
    with service_process("embedder", folder, environment) as service:
        yield service.start().wait_serving(START_S)


@contextlib.asynccontextmanager
async def _embed(
    process: ServiceProcess,
) -> AsyncIterator[grpc.aio.UnaryUnaryMultiCallable[embedder_pb2.EmbedRequest, embedder_pb2.EmbedResponse]]:
    async with grpc.aio.insecure_channel(process.address, channel_options()) as channel:
        yield embedder_pb2_grpc.EmbedderServiceStub(channel).Embed


async def _answered(
    embed: grpc.aio.UnaryUnaryMultiCallable[embedder_pb2.EmbedRequest, embedder_pb2.EmbedResponse], content: bytes
) -> None:
    await embed(_request(content), timeout=60)


def _request(content: bytes) -> embedder_pb2.EmbedRequest:
    return embedder_pb2.EmbedRequest(image=types_pb2.Image(content=content))
