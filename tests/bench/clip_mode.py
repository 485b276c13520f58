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
from pathlib import Path
from typing import Final

from mondrian.gateway.v1 import gateway_pb2

from services.core.advisors import load_advisor
from services.core.progress import progress
from services.core.releases import ReleaseStore
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
        limits=settings.image_limits,
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
                found = asyncio.run(_rate((gateway, service), number, seconds, concurrency))
                after = ceiling(encoder, contents)
                alone = {key: (before[key] + after[key]) / 2 for key in before}
                found["of_ceiling"] = found["per_s"] / alone["per_s"]
                figures.setdefault("alone", []).append(alone)
                figures.setdefault(f"gateway, {concurrency} at once", []).append(found)
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
    return {
        "per_s": report.answered / took,
        "median_ms": report.percentile(50),
        "gateway_cpu_ms": each[0],
        "embedder_cpu_ms": each[1],
        "cores_used": sum(each) * report.answered / took / 1e3,
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
