"""Adds one photograph to many, and counts what meets the encoder; then another encoder comes.

    python -m tests.load.add_one --photographs 10000

The encoder is the tests' fake one, which counts; what is timed is all the rest: reading and hashing every file, finding
what is known, building the index, writing and verifying the release.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from services.core.advisors import load_advisor
from services.core.commands.progress import progress
from services.core.images.reading import ImageLimits
from services.core.releases import ReleaseStore
from services.core.settings import available_cpus
from services.embedder.precomputation import precompute
from tests.fakes.encoder import FakeEncoder
from tests.pictures import advisor_folder

OTHER_SPACE = "fake1111fake1111"


@dataclass(frozen=True)
class Run:
    """One run of precompute."""

    references: int
    """In the release that it published."""
    inferences: int
    """Photographs that met the encoder."""
    seconds: float
    space_id: str
    """Of the release."""


def run(folder: Path, data: Path, encoder: FakeEncoder) -> Run:
    """Pre-computes the folder and returns what it took."""
    encoder.batches.clear()
    started = time.monotonic()
    outcome = precompute(
        load_advisor(folder, folder.name),
        encoder,
        ReleaseStore(data / "embedder"),
        limits=ImageLimits(),
        threads=available_cpus(),
        report=lambda title, total: progress(title, total, quiet=True),
    )
    manifest = outcome.release.manifest
    took = time.monotonic() - started
    return Run(manifest.counts[folder.name], sum(encoder.batches), took, manifest.space_id)


def series(photographs: int, folder: Path) -> list[Run]:
    """Returns the runs over all photographs, over the same again, with one more, and with another encoder."""
    encoder, data = FakeEncoder(), folder / "data"
    many = advisor_folder(folder / "many", range(photographs))
    runs = [run(many, data, encoder), run(many, data, encoder)]
    advisor_folder(many, range(photographs, photographs + 1))
    runs.append(run(many, data, encoder))
    runs.append(run(many, data, FakeEncoder(space_id=OTHER_SPACE)))
    return runs


def main() -> int:
    """Runs the command of the module; 1 when anything met the encoder that need not."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.add_one", description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=int, default=10_000, help="of the advisor (default %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = series(options.photographs, Path(name))
    for what, one in zip(("all new", "the same again", "one more", "another encoder"), runs, strict=True):
        print(
            f"{what}: {one.inferences:,} inferences for {one.references:,} references in space {one.space_id}, "
            f"{one.seconds:.1f} s beside them"
        )
    counts = [one.inferences for one in runs]
    return 0 if counts == [options.photographs, 0, 1, options.photographs + 1] else 1


if __name__ == "__main__":
    sys.exit(main())
