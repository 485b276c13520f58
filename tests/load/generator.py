"""A bounded load on a gateway: requests in a closed loop or at a rate, and what became of them."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio
from mondrian.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.errors import reason_of, rpc_status_of

Request = Callable[[float], Coroutine[None, None, None]]
PERCENTILES = (50.0, 90.0, 95.0, 99.0)


@dataclass(frozen=True)
class Load:
    """What to send. At least one bound holds: requests, or seconds."""

    mode: gateway_pb2.Mode.ValueType
    advisor: str
    photographs: Sequence[bytes]
    requests: int
    """The greatest number of requests."""
    seconds: float
    """After these no request is begun; those in flight are waited for."""
    timeout_s: float = 60.0
    """The deadline of each request."""
    concurrency: int = 8
    """Closed loop: requests in flight. At a rate: the most of them; what exceeds it is counted, not sent."""
    rate: float | None = None
    """Requests a second, arriving at random (Poisson) whatever the answers do; None for a closed loop."""
    distinct: bool = True
    """Whether each request's photograph has bytes of its own, so that no cache of known photographs answers it."""
    seed: int = 0


@dataclass
class Report:
    """What became of a load."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    """Of the requests that were answered, from when each was due."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """OK, PARTIAL (answered, some part failed), a status code with its reason, or NOT_SENT."""

    @property
    def answered(self) -> int:
        """The requests that got an answer, whole or partial."""
        return len(self.latencies_ms)

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Returns the latency (ms) that `percent` of the answers did not exceed (nearest rank); NaN without answers."""
        if not self.latencies_ms:
            return math.nan
        ordered = sorted(self.latencies_ms)
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]

    def lines(self) -> list[str]:
        """Returns the report for a person."""
        shares = ", ".join(f"{name} {count}" for name, count in sorted(self.outcomes.items()))
        latencies = ", ".join(f"p{percent:g} {self.percentile(percent):.0f} ms" for percent in PERCENTILES)
        slowest = max(self.latencies_ms, default=math.nan)
        return [
            f"{self.answered} answers in {self.seconds:.1f} s: {self.per_second:.1f} a second",
            f"latency: {latencies}, slowest {slowest:.0f} ms",
            f"outcomes: {shares or 'none'}",
        ]

    def figures(self) -> dict[str, object]:
        """Returns the report for a program."""
        return {
            "seconds": self.seconds,
            "answered": self.answered,
            "per_second": self.per_second,
            "outcomes": dict(self.outcomes),
            **{f"p{percent:g}_ms": self.percentile(percent) for percent in PERCENTILES},
        }


def photographs_of(load: Load) -> Iterator[bytes]:
    """Yields the photographs in turn, for ever; distinct ones carry a number behind their end, where decoders stop."""
    for number, content in enumerate(itertools.cycle(load.photographs)):
        yield content + number.to_bytes(8, "big") if load.distinct else content


async def run(address: str, load: Load) -> Report:
    """Sends a load to the gateway at `address` and returns what became of it."""
    report = Report()
    photographs = photographs_of(load)
    options = [("grpc.max_send_message_length", 1 << 24), ("grpc.max_receive_message_length", 1 << 24)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub: gateway_pb2_grpc.GatewayServiceAsyncStub = gateway_pb2_grpc.GatewayServiceStub(channel)

        async def one(due: float) -> None:
            request = gateway_pb2.AnalyzeRequest(
                image=types_pb2.Image(content=next(photographs)), advisor=load.advisor, mode=load.mode
            )
            try:
                answer = await stub.Analyze(request, timeout=load.timeout_s)
            except grpc.aio.AioRpcError as error:
                reason = reason_of(rpc_status_of(error))
                report.outcomes[f"{error.code().name}{f' {reason}' if reason else ''}"] += 1
            else:
                report.latencies_ms.append((time.perf_counter() - due) * 1e3)
                report.outcomes["PARTIAL" if answer.failures else "OK"] += 1

        begun = time.perf_counter()
        if load.rate is None:
            await _closed(load, begun, one)
        else:
            await _open(load, load.rate, begun, one, report)
        report.seconds = time.perf_counter() - begun
    return report


async def _closed(load: Load, begun: float, one: Request) -> None:
    """Keeps `concurrency` requests in flight: the next begins when one has ended."""
    numbers = iter(range(load.requests))

    async def client() -> None:
        for _ in numbers:
            if time.perf_counter() - begun >= load.seconds:
                return
            await one(time.perf_counter())

    await asyncio.gather(*(client() for _ in range(load.concurrency)))


async def _arrivals(load: Load, rate: float, begun: float) -> AsyncIterator[float]:
    """Yields the moments at which requests are due, when they are."""
    random_ = random.Random(load.seed)
    due = begun
    for _ in range(load.requests):
        due += random_.expovariate(rate)
        if due - begun >= load.seconds:
            return
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        yield due


async def _open(load: Load, rate: float, begun: float, one: Request, report: Report) -> None:
    """Begins requests when they are due, whatever became of those before.

    A latency counts from when the request was due, not from when it was sent: a generator that falls behind would
    otherwise hide the waiting that it causes (coordinated omission).
    """
    in_flight: set[asyncio.Task[None]] = set()
    async for due in _arrivals(load, rate, begun):
        if len(in_flight) >= load.concurrency:
            report.outcomes["NOT_SENT"] += 1
            continue
        task = asyncio.create_task(one(due))
        in_flight.add(task)
        task.add_done_callback(in_flight.discard)
    await asyncio.gather(*in_flight)
