"""What the scorer costs: CPU milliseconds of one thread a photograph.

    python -m tests.bench.scorer [--photo FILE] [--rounds 9] [--json FILE]

Measured are eight decoded photographs of 1,024 px in one batch (resized, measured, calibrated and said), and JPEGs from
the bytes on, decoded as the service does it. The photograph is one of skimage.data unless a file is given; the JPEGs
are drawn noise, which is slower to decode than most photographs.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import skimage.data
import torch
from PIL import Image

from services.core.images.reading import decode
from services.scorer import photographs
from services.scorer.calibration import Calibration
from services.scorer.scoring import Picture, Scorer
from tests.bench.measuring import Action, cpu_ms, print_load, start_as_a_service, write_figures
from tests.load.__main__ import drawn

BATCH = 8


def measure(photograph: Image.Image, rounds: int) -> dict[str, float]:
    """Returns CPU milliseconds a photograph by what is done."""
    torch.set_num_threads(1)
    scorer = Scorer(Calibration.load())
    long = 1024 / max(photograph.size)
    decoded = photograph.resize((round(photograph.width * long), round(photograph.height * long)))

    def batch() -> None:
        scorer.score([Picture.of(decoded) for _ in range(BATCH)])

    def alone() -> None:
        scorer.score([Picture.of(decoded)])

    def file(content: bytes) -> None:
        scorer.score([photographs.picture(content)])

    batch()
    actions: dict[str, Action] = {
        f"decoded, 1,024 px, batch of {BATCH}": batch,
        "decoded, 1,024 px, alone": alone,
        **{f"JPEG {size:g} MP, with decoding": functools.partial(file, drawn(size, 1)) for size in (0.7, 12)},
    }
    return {name: cost / (BATCH if "batch" in name else 1) for name, cost in cpu_ms(actions, rounds).items()}


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scorer", description="Measures the scorer's cost.")
    parser.add_argument("--photo", type=Path, help="a photograph; default astronaut of skimage.data")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each figure (default %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the figures to, as well")
    options = parser.parse_args()
    start_as_a_service()
    print_load("the scorer")
    photograph = decode(options.photo.read_bytes()) if options.photo else Image.fromarray(skimage.data.astronaut())
    figures = measure(photograph, options.rounds)
    for name, milliseconds in figures.items():
        print(f"{name:36}{milliseconds:8.1f} ms of CPU")
    write_figures(options.json, {"scorer": {name: {"cpu_ms": cost} for name, cost in figures.items()}})


if __name__ == "__main__":
    main()
