"""A fake service as a process: `python -m tests.fakes critic --delay-ms 20`.

Prints `ready HOST:PORT` once it is SERVING, and runs until SIGTERM. For load generators and benchmarks.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import Final

from tests.fakes.backends import FakeCritic, FakeEmbedder, FakeScorer
from tests.fakes.system import served

KINDS: Final[dict[str, type[FakeEmbedder] | type[FakeCritic] | type[FakeScorer]]] = {
    "embedder": FakeEmbedder,
    "critic": FakeCritic,
    "scorer": FakeScorer,
}


async def _run(kind: str, port: int, delay_ms: float) -> None:
    fake = KINDS[kind]()
    fake.delay_s = delay_ms / 1e3
    fake.remember = False
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with served(fake, port) as server:
        print(f"ready {server.address}", flush=True)
        await stopped.wait()


def main() -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes", description="Serves a fake service.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="how long an answer takes")
    options = parser.parse_args()
    asyncio.run(_run(options.kind, options.port, options.delay_ms))


if __name__ == "__main__":
    main()
