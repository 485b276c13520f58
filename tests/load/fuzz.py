"""Sends the four real services what no client should, and looks whether each answer is one that the contract names.

    python -m tests.load.fuzz [--seconds 60] [--seed 0] [--case N]

A case is a request of any rpc of any service, made from the contract's own descriptors: values at and beyond every
edge, photographs of every format with bytes changed, cut or spliced, bytes that are no message at all, deadlines too
short, calls given up halfway. Eight are in flight at once. Wrong is: a code that the contract does not name, above all
INTERNAL; a message that is no sentence; a call that outlasts its deadline; a process that ended or is not SERVING
afterwards; an ordinary request whose answer has changed. The number of a case makes it again with --case.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mondrian.gateway.v1 import gateway_pb2, gateway_pb2_grpc

from services.core.errors import reason_of, rpc_status_of
from services.core.rpc.channels import channel_options
from tests.load.odd import Maker, Method, methods, photographs
from tests.processes import HEALTH_NAMES, ServiceProcess
from tests.system import ADVISOR, whole_system

IN_FLIGHT: Final = 8
TIMEOUT_S: Final = 60.0
GRACE_S: Final = 10.0
"""How much longer than its deadline a call may take on a busy machine before it counts as hanging."""
ALLOWED: Final = frozenset(
    {
        "OK",
        "CANCELLED",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "FAILED_PRECONDITION",
        "RESOURCE_EXHAUSTED",
        "DEADLINE_EXCEEDED",
    }
)
"""What a system may answer that is whole and idle otherwise; UNAVAILABLE is for one that is not."""

_UNWRITTEN: Final = "Internal error from Core"
"""What the client's library calls its own writing into a stream that has just ended."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended: its code and reason, and what is wrong with it, if anything."""

    method: str
    code: str
    reason: str = ""
    wrong: str = ""


class Fuzz:
    """The processes, a channel to each, and what can be asked of them."""

    def __init__(
        self, processes: Mapping[str, ServiceProcess], channels: Mapping[str, grpc.aio.Channel], seed: int
    ) -> None:
        self._processes = processes
        self._channels = channels
        self._seed = seed
        self._methods = methods()
        self._photographs = photographs()

    async def case(self, number: int) -> Outcome:
        """Returns how a case ended."""
        rng = random.Random(f"{self._seed}/{number}")
        method = rng.choice(self._methods)
        maker = Maker(rng, self._photographs)
        requests = [maker.request(method) for _ in range(rng.randint(0, 4) if method.many else 1)]
        timeout = rng.choice((0.001, 0.05, 1.0)) if rng.random() < 0.15 else TIMEOUT_S
        read = rng.randrange(3) if rng.random() < 0.1 else None
        begun = time.monotonic()
        try:
            async with asyncio.timeout(timeout + GRACE_S):
                await self._call(method, requests, timeout, read)
        except TimeoutError:
            return Outcome(
                method.name, "HANGING", wrong=f"no answer {time.monotonic() - begun:.0f} s after it was sent"
            )
        except grpc.aio.AioRpcError as error:
            reason = reason_of(rpc_status_of(error))
            if error.details() == _UNWRITTEN and not reason:
                return Outcome(method.name, "CANCELLED")
            wrong = wrong_with(error.code().name, reason, error.details() or "", maker.garbled)
            return Outcome(method.name, error.code().name, reason, wrong)
        except asyncio.CancelledError:
            # The library gives a call up by itself where it is ended while requests are still being written.
            return Outcome(method.name, "CANCELLED")
        return Outcome(method.name, "OK")

    async def _call(self, method: Method, requests: list[bytes], timeout: float, read: int | None) -> None:
        """Sends the requests and reads the answers; gives up after `read` of them where that is a number."""
        channel = self._channels[method.service]
        if not method.streams:
            ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method.path)
            call = ask(requests[0], timeout=timeout)
            if read is None:
                await call
            else:
                await asyncio.sleep(0)
                call.cancel()
            return
        # Without serializers both directions are bytes, which the types of the library cannot say.
        open_stream: Any = (channel.stream_stream if method.many else channel.unary_stream)(method.path)
        stream = open_stream(_each(requests) if method.many else requests[0], timeout=timeout)
        async for _ in stream:
            if read is not None:
                read -= 1
                if read <= 0:
                    stream.cancel()
                    return

    async def ordinary(self) -> tuple[str, list[tuple[str, float]], list[float]]:
        """Returns what an ordinary request is answered: the critique, the neighbors, the scores."""
        request = gateway_pb2.AnalyzeRequest(advisor=ADVISOR, mode=gateway_pb2.MODE_COMBINED)
        request.image.content = self._photographs["ordinary.jpg"]
        request.generation_config.temperature = 0
        stub = gateway_pb2_grpc.GatewayServiceStub(self._channels["gateway"])
        answer = await stub.Analyze(request, timeout=TIMEOUT_S)
        assert not answer.failures, answer.failures
        neighbors = [(each.reference.id, each.similarity) for each in answer.references.neighbors]
        return answer.critique.text, neighbors, [each.score for each in answer.scores.dimensions]

    async def serving(self) -> list[str]:
        """Returns a sentence for every service that is not SERVING any more."""
        wrong = []
        for name, channel in self._channels.items():
            if not self._processes[name].alive:
                wrong.append(f"the {name} has ended:\n{self._processes[name].tail()}")
                continue
            asked = health_pb2.HealthCheckRequest(service=HEALTH_NAMES[name])
            answer = await health_pb2_grpc.HealthStub(channel).Check(asked, timeout=TIMEOUT_S)
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                wrong.append(f"the {name} does not serve any more")
        return wrong


async def _each(requests: list[bytes]) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


def wrong_with(code: str, reason: str, message: str, garbled: bool = False) -> str:
    """Returns what is wrong with a status; empty where nothing is. `garbled`: what was asked was no message."""
    if garbled and code == "UNKNOWN" and not reason:
        return ""  # what is no message does not get as far as the rpcs of a probe: the library answers
    if code not in ALLOWED:
        return f"{code}: {message[:300]}"
    # The library's own have no reason: a deadline that has passed, a call that was given up.
    sentence = message.rstrip().endswith((".", "?", "…")) and " " in message
    if reason and (not sentence or "Traceback" in message or "object at 0x" in message):
        return f"no sentence for a person: {message[:300]!r}"
    return ""


async def run(processes: Mapping[str, ServiceProcess], seconds: float, seed: int, only: int | None) -> list[str]:
    """Runs cases for some time, or `only` one; prints what was answered and returns a line for all that was wrong."""
    channels = {
        name: grpc.aio.insecure_channel(process.address, channel_options()) for name, process in processes.items()
    }
    fuzz = Fuzz(processes, channels, seed)
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    wrong: list[str] = []
    numbers = iter(range(10**9)) if only is None else iter([only])
    until = time.monotonic() + seconds

    async def worker() -> None:
        for number in numbers:
            outcome = await fuzz.case(number)
            counts[outcome.method, f"{outcome.code} {outcome.reason}".strip()] += 1
            if outcome.wrong:
                wrong.append(f"case {number} of seed {seed}, {outcome.method}: {outcome.wrong}")
            if time.monotonic() > until or len(wrong) >= 20:
                return

    before = await fuzz.ordinary()
    resident = {name: process.resident_bytes() for name, process in processes.items()}
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    wrong += await fuzz.serving()
    if not wrong and await fuzz.ordinary() != before:
        wrong.append("an ordinary request is answered otherwise than before")
    for (method, answered), count in sorted(counts.items()):
        print(f"{count:7d}  {method:30s} {answered}")
    print(f"{sum(counts.values())} cases in {seconds:.0f} s with seed {seed}, {len(wrong)} wrong")
    for name, process in processes.items() if not wrong else ():
        print(
            f"memory of the {name}: {resident[name] / 1e6:.0f} MB before, {process.resident_bytes() / 1e6:.0f} MB after"
        )
    for channel in channels.values():
        await channel.close()
    return wrong


def main() -> None:
    """Starts the system, runs, and ends with 1 where something was wrong."""
    parser = argparse.ArgumentParser(description="Sends the services what no client should.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this case alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, whole_system(Path(folder), {}) as processes:
        wrong = asyncio.run(run(processes, options.seconds, options.seed, options.case))
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
