"""What the gateway costs: latency added to the slowest part, requests a second, CPU a request.

    python -m tests.bench.gateway [--rounds 7] [--calls 40] [--seconds 5] [--json FILE]

Four processes: a real gateway over fake services that take 5, 10 and 20 ms (for latency) or answer at once (for
throughput). Latency: calls to the slowest fake and combined calls through the gateway take turns, so that a busy
machine slows both alike; each round gives the difference of two medians, and the report the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import grpc.aio
from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc
from mondrian.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.rpc.channels import channel_options
from tests.processes import ServiceProcess, fake_process, service_process

DELAYS_MS: Final = {"embedder": 5.0, "scorer": 10.0, "critic": 20.0}
SIZES: Final = {"200 KB": 200_000, "2 MB": 2_000_000}
CONCURRENCY: Final = 32
START_S: Final = 60.0


@dataclass(frozen=True)
class Latency:
    """Milliseconds at concurrency 1; medians."""

    size: str
    slowest_part_ms: float
    combined_ms: float
    added_ms: float
    added_lowest_ms: float
    added_highest_ms: float
    ratio: float


@dataclass(frozen=True)
class Throughput:
    """A closed loop of 32 clients over parts that answer at once; the medians of the rounds."""

    size: str
    requests_per_s: float
    cpu_ms_per_request: float
    requests_per_cpu_s: float


@contextlib.contextmanager
def system(delays_ms: dict[str, float]) -> Iterator[tuple[ServiceProcess, ServiceProcess]]:
    """Yields the gateway and the critic, as processes."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        fakes = {kind: stack.enter_context(fake_process(kind, folder, delay)) for kind, delay in delays_ms.items()}
        for fake in fakes.values():
            fake.start()
        environment = {f"MONDRIAN_GATEWAY_{kind.upper()}": fake.address for kind, fake in fakes.items()}
        environment["MONDRIAN_GATEWAY_LOG_LEVEL"] = "warning"
        gateway = stack.enter_context(service_process("gateway", folder, environment))
        gateway.start().wait_serving(START_S)
        yield gateway, fakes["critic"]


async def _milliseconds(call: Callable[[], Awaitable[object]]) -> float:
    begun = time.perf_counter()
    await call()
    return (time.perf_counter() - begun) * 1e3


async def latency(size: str, rounds: int, calls: int) -> Latency:
    """Returns what a combined call adds to a call of its slowest part."""
    image = types_pb2.Image(content=b"\xff\xd8\xff" + os.urandom(SIZES[size] - 3))
    with system(DELAYS_MS) as (gateway, critic):
        async with (
            grpc.aio.insecure_channel(gateway.address, channel_options()) as through,
            grpc.aio.insecure_channel(critic.address, channel_options()) as direct,
        ):
            analyze = gateway_pb2_grpc.GatewayServiceStub(through).Analyze
            critique = critic_pb2_grpc.CriticServiceStub(direct).Critique
            whole = gateway_pb2.AnalyzeRequest(image=image, advisor="ansel", mode=gateway_pb2.MODE_COMBINED)
            part = critic_pb2.CritiqueRequest(image=image, advisor="ansel")

            async def turns(count: int) -> tuple[float, float]:
                direct_ms, combined_ms = [], []
                for _ in range(count):
                    direct_ms.append(await _milliseconds(lambda: critique(part, timeout=30)))
                    combined_ms.append(await _milliseconds(lambda: analyze(whole, timeout=30)))
                return statistics.median(direct_ms), statistics.median(combined_ms)

            await turns(10)
            pairs = [await turns(calls) for _ in range(rounds)]
    added = [combined - direct for direct, combined in pairs]
    slowest = statistics.median(direct for direct, _ in pairs)
    return Latency(
        size=size,
        slowest_part_ms=slowest,
        combined_ms=statistics.median(combined for _, combined in pairs),
        added_ms=statistics.median(added),
        added_lowest_ms=min(added),
        added_highest_ms=max(added),
        ratio=statistics.median(combined / direct for direct, combined in pairs),
    )


async def throughput(size: str, rounds: int, seconds: float) -> Throughput:
    """Returns how many combined requests a second the gateway answers, and what one costs it."""
    image = types_pb2.Image(content=b"\xff\xd8\xff" + os.urandom(SIZES[size] - 3))
    request = gateway_pb2.AnalyzeRequest(image=image, advisor="ansel", mode=gateway_pb2.MODE_COMBINED)
    with system(dict.fromkeys(DELAYS_MS, 0.0)) as (gateway, _):
        async with grpc.aio.insecure_channel(gateway.address, channel_options()) as channel:
            analyze = gateway_pb2_grpc.GatewayServiceStub(channel).Analyze

            async def client(until: float) -> int:
                answered = 0
                while time.perf_counter() < until:
                    answer = await analyze(request, timeout=30)
                    assert not answer.failures
                    answered += 1
                return answered

            async def loop(length: float) -> tuple[float, float]:
                begun, cpu = time.perf_counter(), gateway.cpu_seconds()
                answered = sum(await asyncio.gather(*(client(begun + length) for _ in range(CONCURRENCY))))
                return answered / (time.perf_counter() - begun), (gateway.cpu_seconds() - cpu) * 1e3 / answered

            await loop(1.0)
            measured = [await loop(seconds) for _ in range(rounds)]
    cpu_ms = statistics.median(cost for _, cost in measured)
    return Throughput(size, statistics.median(rate for rate, _ in measured), cpu_ms, 1e3 / cpu_ms)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Measures what the gateway costs.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=40, help="pairs of calls a round")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a round of the closed loop")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    latencies = [asyncio.run(latency(size, options.rounds, options.calls)) for size in SIZES]
    rates = [asyncio.run(throughput(size, min(3, options.rounds), options.seconds)) for size in SIZES]
    print(f"load of the machine at the start: {load:.1f} on {os.cpu_count()} cores")
    for one in latencies:
        print(
            f"{one.size}: slowest part {one.slowest_part_ms:.1f} ms, combined {one.combined_ms:.1f} ms, added "
            f"{one.added_ms:.2f} ms ({one.added_lowest_ms:.2f} to {one.added_highest_ms:.2f}), ratio {one.ratio:.3f}"
        )
    for rate in rates:
        print(
            f"{rate.size}: {rate.requests_per_s:.0f} requests/s with {CONCURRENCY} in flight on this machine, "
            f"{rate.cpu_ms_per_request:.2f} ms CPU a request ({rate.requests_per_cpu_s:.0f} requests a CPU second)"
        )
    if options.json:
        figures = {
            "load": load,
            "latency": [asdict(one) for one in latencies],
            "throughput": [asdict(one) for one in rates],
        }
        options.json.write_text(f"{json.dumps(figures, indent=2)}\n")


if __name__ == "__main__":
    main()
