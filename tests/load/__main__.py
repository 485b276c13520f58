"""Puts a bounded load on a gateway: `python -m tests.load --help`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

import numpy as np
from mondrian.gateway.v1 import gateway_pb2

from tests.load.generator import Load, run
from tests.pictures import encoded

MODES = {name.removeprefix("MODE_").lower(): value for name, value in gateway_pb2.Mode.items() if value}


def drawn(megapixels: float, seed: int) -> bytes:
    """Returns a JPEG of soft noise over a gradient; about 200 KB a megapixel."""
    height = max(8, round((megapixels * 1e6 / 1.5) ** 0.5))
    width = round(height * 1.5)
    noise = np.random.default_rng(seed).normal(0, 20, (height, width, 3))
    gradient = np.linspace(40, 210, height)[:, None, None]
    return encoded(np.clip(gradient + noise, 0, 255).astype(np.uint8), "JPEG", quality=75)


def main() -> int:
    """Sends the load and prints the report; 1 when nothing was answered."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description="Puts a bounded load on a gateway.")
    parser.add_argument("--address", default="127.0.0.1:50050", help="the gateway (default %(default)s)")
    parser.add_argument("--mode", choices=MODES, default="combined")
    parser.add_argument("--advisor", default="ansel")
    parser.add_argument("--photo", type=Path, action="append", default=[], help="a file to send; may be repeated")
    parser.add_argument("--megapixels", type=float, default=1.0, help="size of the drawn photographs without --photo")
    parser.add_argument("--rate", type=float, help="requests a second, arriving at random; without it a closed loop")
    parser.add_argument("--concurrency", type=int, default=8, help="requests in flight; at a rate, the most of them")
    parser.add_argument("--requests", type=int, default=200, help="at most so many (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="begin none after so long (default %(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, help="deadline of a request, in seconds")
    parser.add_argument("--same", action="store_true", help="let caches answer photographs that they know")
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals")
    parser.add_argument("--json", action="store_true", help="print figures instead of sentences")
    options = parser.parse_args()
    photographs = [path.read_bytes() for path in options.photo] or [
        drawn(options.megapixels, seed) for seed in range(4)
    ]
    load = Load(
        mode=MODES[options.mode],
        advisor=options.advisor,
        photographs=photographs,
        requests=options.requests,
        seconds=options.seconds,
        timeout_s=options.timeout,
        concurrency=options.concurrency,
        rate=options.rate,
        distinct=not options.same,
        seed=options.seed,
    )
    report = asyncio.run(run(options.address, load))
    print(json.dumps(report.figures(), indent=2) if options.json else "\n".join(report.lines()))
    return 0 if report.answered else 1


if __name__ == "__main__":
    sys.exit(main())
