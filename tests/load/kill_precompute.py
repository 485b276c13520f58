"""Kills precompute again and again, and looks whether anything that it had said was done is lost.

    python -m tests.load.kill_precompute --times 200

Each round runs the command in a process of its own and ends it with SIGKILL at a random instant. After every kill
the release that is served must be whole; what the run had reported as done must not be computed again; and when the
command is at last left alone, the release must be the one that an undisturbed run publishes. The encoder is the tests'
fake one, so that the time goes into what is tested: reading, keeping, publishing.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from services.core.images.reading import sha256
from services.core.releases import Release, ReleaseStore
from services.embedder import precompute
from services.embedder.catalogue import FILE_NAME, Catalogue
from services.embedder.references import load_references
from services.embedder.source import Source
from services.embedder.work import Work
from tests.fakes.encoder import FakeEncoder
from tests.pictures import advisor_folder, photograph


@dataclass
class Report:
    """What a series of kills found."""

    kills: int = 0
    """Runs that ended by the signal."""
    completions: int = 0
    """Runs that were quicker than their killer."""
    reported: int = 0
    """Photographs that killed runs had reported as done."""


class Lost(AssertionError):
    """Something that was done is gone, or something broken is served."""


def torture(times: int, photographs: int, folder: Path, seed: int = 0) -> Report:
    """Kills `times` runs over `photographs` photographs in `folder` and returns what was seen.

    Raises:
        Lost: what must not happen has happened.
    """
    choice = random.Random(seed)
    report = Report()
    undisturbed, data = folder / "data" / "undisturbed", folder / "data" / "disturbed"
    advisor_folder(folder / "first", range(3))
    _run(folder, "first", undisturbed)
    advisor_folder(folder / "second", range(photographs))
    whole_s = _run(folder, "second", undisturbed)
    store = ReleaseStore(data / "embedder")
    _run(folder, "first", data)
    while report.kills < times:
        shown, code = _kill(folder, "second", data, choice.uniform(0.0, 1.1 * whole_s))
        if code not in (0, -9):
            raise Lost(f"the command ended with {code}: {shown}")
        report.kills += code == -9
        report.completions += code == 0
        served = _served(store)
        done = _reported(shown)
        report.reported += done
        if "second" in served.manifest.counts:
            # Published: a killed run has nothing to lose any more, so everything begins again.
            _same(served, undisturbed)
            shutil.rmtree(data)
            _run(folder, "first", data)
        elif (left := _left_to_compute(store, served, photographs)) > photographs - done:
            raise Lost(f"{done} of {photographs} photographs were reported as done, and {left} would be computed again")
    _run(folder, "second", data)
    _same(_served(store), undisturbed)
    if list((data / "embedder" / "staging").iterdir()):
        raise Lost("an interrupted writer's files are still there")
    return report


def _run(folder: Path, advisor: str, data: Path) -> float:
    """Lets a run come to its end and returns how many seconds it took."""
    started = time.monotonic()
    shown, code = _kill(folder, advisor, data, None)
    if code != 0:
        raise Lost(f"the command ended with {code}: {shown}")
    return time.monotonic() - started


def _kill(folder: Path, advisor: str, data: Path, delay_s: float | None) -> tuple[str, int]:
    """Returns what a run wrote before it was killed `delay_s` after it began, and its exit code (-9 when killed)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, sys.stderr.fileno())
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        arguments = ["--advisor-dir", str(folder / advisor), "--advisor-id", advisor, "--data-dir", str(data)]
        os._exit(precompute.run(arguments, make_encoder=lambda settings: FakeEncoder()))
    os.close(writing)
    descriptor = os.pidfd_open(child)
    if not select.select([descriptor], [], [], delay_s)[0]:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(descriptor)
    with open(reading, encoding="utf-8") as written:
        return written.read(), os.waitstatus_to_exitcode(status)


def _reported(shown: str) -> int:
    """Returns how many photographs a run had reported as done."""
    lines = re.findall(r"(\d+) of \d+", shown)
    return int(lines[-1]) if lines else 0


def _served(store: ReleaseStore) -> Release:
    """Returns the release that a server would serve, loaded as a server loads it."""
    release = store.current()
    if release is None:
        raise Lost("nothing is served any more")
    fake = FakeEncoder()
    load_references(release, space_id=fake.space_id, encoder_name=fake.name, dimensions=fake.dimensions)
    return release


def _left_to_compute(store: ReleaseStore, served: Release, photographs: int) -> int:
    """Returns how many photographs the next run would give to the encoder."""
    fake = FakeEncoder()
    work = Work(store.work, fake.space_id, fake.dimensions)
    catalogue = Catalogue(served.file(FILE_NAME), fake.dimensions)
    source = Source(work, catalogue)
    try:
        return sum(source.get(sha256(photograph(seed))) is None for seed in range(photographs))
    finally:
        work.close()
        catalogue.close()


def _same(release: Release, undisturbed: Path) -> None:
    wanted = ReleaseStore(undisturbed / "embedder").current()
    if wanted is None or wanted.manifest.counts != release.manifest.counts:
        raise Lost("the release holds other advisors than that of an undisturbed run")
    if wanted.manifest.files["second.hnsw"] != release.manifest.files["second.hnsw"]:
        raise Lost("the neighbors are not those of an undisturbed run")


def main() -> int:
    """Runs the command of the module; 1 when something was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.kill_precompute", description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=200, help="kills (default %(default)s)")
    parser.add_argument("--photographs", type=int, default=60, help="photographs of the advisor (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants (default %(default)s)")
    options = parser.parse_args()
    # Small batches: many instants that differ. The processes are forked, which threads would forbid.
    os.environ.update(
        MONDRIAN_EMBEDDER_MAX_BATCH="2", MONDRIAN_EMBEDDER_DECODE_THREADS="1", MONDRIAN_EMBEDDER_INDEX="hnsw"
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = torture(options.times, options.photographs, Path(folder), options.seed)
        except Lost as lost:
            print(f"LOST: {lost}")
            return 1
    print(
        f"{report.kills} kills, {report.completions} runs that were quicker, {report.reported} photographs reported as "
        "done by killed runs: none was lost, every release was whole, and the last one is that of an undisturbed run."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
