"""CLIP mode through the gateway: requests a second of the whole path, with a model as large as the published one.

    python -m tests.bench.clip_mode [--engine openvino] [--seconds 10] [--rounds 3] [--concurrency 64] [--json FILE]

Two processes, gateway and embedder, and the clients of this one, all on the same cores. The encoder is a ViT-B/32 with
random weights, the advisor has 24 references, every photograph (200 KB) is a new one. The CPU that a request costs the
two services says what they would answer with the cores to themselves, whoever else is on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc.aio
from mondrian.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.advisors import load_advisor
from services.core.commands.progress import progress
from services.core.images.reading import ImageLimits
from services.core.releases import ReleaseStore
from services.core.rpc.channels import channel_options
from services.core.settings import available_cpus
from services.embedder.loading import load
from services.embedder.precomputation import precompute
from services.embedder.settings import EmbedderSettings
from tests.bench.measuring import (
    Figures,
    different,
    medians,
    print_figures,
    print_load,
    start_as_a_service,
    write_figures,
)
from tests.bench.served import START_S, ceiling, embedder
from tests.fakes.open_clip_folder import VIT_B_32, write_folder
from tests.load.__main__ import drawn
from tests.load.generator import Load, run
from tests.processes import ServiceProcess, free_port, service_process

REFERENCES: Final = 24
BULK_CALLS: Final = 2
"""Bulk clients at once: together they keep twice the greatest batch in flight."""


def measure(folder: Path, engine: str, seconds: float, rounds: int, concurrency: int) -> dict[str, Figures]:
    """Returns the rate of this process alone and of CLIP mode through the gateway, taking turns."""
    model = write_folder(folder / "ViT-B-32", VIT_B_32)
    settings = EmbedderSettings.load(model_path=model, engine=engine, data_dir=folder / "data")
    encoder = load(settings)
    references = folder / "bench" / "references"
    references.mkdir(parents=True)
    for number in range(REFERENCES):
        (references / f"{number}.jpg").write_bytes(drawn(0.7, 100 + number))
    precompute(
        load_advisor(folder / "bench", "bench"),
        encoder,
        ReleaseStore(settings.releases_root),
        limits=ImageLimits.of(settings),
        threads=available_cpus(),
        report=lambda title, total: progress(title, total, quiet=True),
    )
    figures: dict[str, list[Figures]] = {}
    with embedder(folder, settings) as service:
        environment = {
            "MONDRIAN_GATEWAY_EMBEDDER": service.address,
            # CLIP mode asks neither.
            "MONDRIAN_GATEWAY_CRITIC": f"127.0.0.1:{free_port()}",
            "MONDRIAN_GATEWAY_SCORER": f"127.0.0.1:{free_port()}",
            "MONDRIAN_GATEWAY_START_GATE_S": "2",
            "MONDRIAN_GATEWAY_LOG_LEVEL": "warning",
        }
        with service_process("gateway", folder, environment) as gateway:
            gateway.start().wait_serving(START_S)
            for number in range(rounds):
                contents = list(different(drawn(0.7, 6), round(seconds * 10), salt=number.to_bytes(4, "big")))
                before = ceiling(encoder, contents)
                of_round = {
                    f"Analyze, {concurrency} at once": asyncio.run(
                        _rate((gateway, service), number, seconds, concurrency)
                    ),
                    f"AnalyzeBatch, {BULK_CALLS} calls": asyncio.run(_bulk_rate((gateway, service), contents)),
                }
                after = ceiling(encoder, contents)
                alone = {key: (before[key] + after[key]) / 2 for key in before}
                figures.setdefault("alone", []).append(alone)
                for title, found in of_round.items():
                    found["of_ceiling"] = found["per_s"] / alone["per_s"]
                    found["of_ceiling_in_cpu"] = alone["cpu_ms"] / (found["gateway_cpu_ms"] + found["embedder_cpu_ms"])
                    figures.setdefault(title, []).append(found)
    return medians(figures)


async def _rate(processes: tuple[ServiceProcess, ...], salt: int, seconds: float, concurrency: int) -> Figures:
    load_ = Load(
        mode=gateway_pb2.MODE_CLIP,
        advisor="bench",
        photographs=[drawn(0.7, 1000 * salt + seed) for seed in range(4)],
        requests=1_000_000,
        seconds=seconds,
        concurrency=concurrency,
    )
    cpu, begun = [one.cpu_seconds() for one in processes], time.perf_counter()
    report = await run(processes[0].address, load_)
    took = time.perf_counter() - begun
    assert set(report.outcomes) == {"OK"}, report.outcomes
    each = [(one.cpu_seconds() - was) * 1e3 / report.answered for one, was in zip(processes, cpu, strict=True)]
    return {"median_ms": report.percentile(50), **_figures(report.answered, took, each)}


async def _bulk_rate(processes: tuple[ServiceProcess, ...], contents: Sequence[bytes]) -> Figures:
    """Returns the rate of bulk clients that send all they have; the gateway lets 32 of each call in at once."""
    cpu, begun = [one.cpu_seconds() for one in processes], time.perf_counter()
    async with grpc.aio.insecure_channel(processes[0].address, channel_options()) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)

        async def call(own: Sequence[bytes]) -> int:
            requests = (
                gateway_pb2.AnalyzeBatchRequest(
                    key=str(number),
                    request=gateway_pb2.AnalyzeRequest(
                        # New once more: the rounds before and after have another end.
                        image=types_pb2.Image(content=content + b"bulk"),
                        advisor="bench",
                        mode=gateway_pb2.MODE_CLIP,
                    ),
                )
                for number, content in enumerate(own)
            )
            return sum([answer.HasField("response") async for answer in stub.AnalyzeBatch(requests)])

        answered = sum(await asyncio.gather(*(call(contents[start::BULK_CALLS]) for start in range(BULK_CALLS))))
    assert answered == len(contents)
    took = time.perf_counter() - begun
    each = [(one.cpu_seconds() - was) * 1e3 / answered for one, was in zip(processes, cpu, strict=True)]
    return _figures(answered, took, each)


def _figures(answered: int, seconds: float, each: Sequence[float]) -> Figures:
    return {
        "per_s": answered / seconds,
        "gateway_cpu_ms": each[0],
        "embedder_cpu_ms": each[1],
        "cores_used": sum(each) * answered / seconds / 1e3,
        "per_s_of_free_cores": available_cpus() * 1e3 / sum(each),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.clip_mode", description="Measures CLIP mode.")
    parser.add_argument("--engine", choices=("torch", "openvino"), default="torch", help="(default %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a closed loop (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    start_as_a_service()
    print_load(f"a ViT-B/32 with random weights on {options.engine}")
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), options.engine, options.seconds, options.rounds, options.concurrency)
    print_figures("clip", figures)
    write_figures(options.json, {"clip": figures})


if __name__ == "__main__":
    main()
