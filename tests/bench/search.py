"""Search curves: time, recall, memory and build by the number of references.

    python -m tests.bench.search [--counts 1000,10000,100000] [--json FILE]

The vectors are drawn to lie as embeddings of photographs do: 512 numbers of unit length, one motif for every 50
references, and around motifs as between them a spectrum that falls like k^-0.7 about a mean that all share. What comes
of it is printed: the intrinsic dimension (two nearest neighbours, Facco et al. 2017), and the cosine of two references
and of nearest neighbours, at the median. Queries are further vectors around the same motifs, which the index has not
seen. Each size is built in one process and searched in another; HNSW and exact search take turns on the same queries.
500,000 references need 4 GB of memory and many minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from services.core.settings import available_cpus
from services.embedder.encoder import Matrix
from services.embedder.index import ExactIndex, ReferenceIndex
from services.embedder.indexing import Asked, IndexRecord, build_index, choose, load_index

DIMENSIONS = 512
QUERIES = 200
TOP_K = 10
_BLOCK = 50_000
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Shape:
    """How drawn vectors lie."""

    intrinsic_dimension: float
    pair_cosine: float
    """The median cosine of two of them."""
    nearest_cosine: float
    """The median cosine of one and its nearest neighbor."""


@dataclass(frozen=True)
class Searched:
    """One method in use."""

    median_ms: float
    """Of one core: the thread's CPU time, so that others on the machine do not count."""
    p99_ms: float
    resident_mb: float
    """How much the process grew by loading it."""
    recall: float
    """The share of the true 10 nearest that unseen queries found."""


@dataclass(frozen=True)
class Point:
    """One size of an advisor."""

    count: int
    shape: Shape
    record: IndexRecord
    chosen: str
    """What `auto` takes."""
    graph_mb: float
    """The graph's file."""
    exact: Searched
    hnsw: Searched | None
    """None where no breadth of the graph reaches the goal."""


def natural(count: int, seed: int, motifs: int) -> Matrix:
    """Returns unit vectors around `motifs` motifs, which are the same for every seed; see the module."""
    fixed = np.random.default_rng(0)
    spectrum = np.arange(1, DIMENSIONS + 1, dtype=np.float32) ** np.float32(-0.7)
    basis = np.linalg.qr(fixed.standard_normal((DIMENSIONS, DIMENSIONS)))[0].astype(np.float32)
    centres = fixed.standard_normal((motifs, DIMENSIONS), dtype=np.float32) * spectrum
    centres[:, 0] += np.linalg.norm(spectrum)
    generator = np.random.default_rng(seed)
    made = np.empty((count, DIMENSIONS), np.float32)
    for start in range(0, count, _BLOCK):
        block = made[start : start + _BLOCK]
        around = generator.standard_normal(block.shape, dtype=np.float32) * spectrum
        around += centres[generator.integers(motifs, size=len(block))]
        np.matmul(around, basis.T, out=block)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return made


def shape_of(matrix: Matrix) -> Shape:
    """Returns how vectors lie, judged by 500 of them."""
    some = np.random.default_rng(0).choice(len(matrix), min(500, len(matrix)), replace=False)
    cosines = matrix[some] @ matrix.T
    pairs = float(np.median(cosines))
    cosines[np.arange(len(some)), some] = -2.0
    nearest = np.partition(cosines, (-2, -1), axis=1)[:, :-3:-1]
    first, second = np.sqrt(2.0 - 2.0 * np.minimum(nearest, 1.0 - 1e-7).astype(np.float64)).T
    # The ratio of the two distances is distributed as a power that is the dimension; its tail is noise.
    ratios = np.log(np.sort(second / first)[: int(0.9 * len(some))])
    heights = -np.log1p(-np.arange(1, len(ratios) + 1) / (len(some) + 1))
    dimension = float((ratios * heights).sum() / (ratios * ratios).sum())
    return Shape(round(dimension, 1), round(pairs, 2), round(float(np.median(nearest[:, 0])), 2))


def measure(count: int, folder: Path, asked: Asked = "hnsw") -> Point:
    """Returns the figures of one size."""
    record, shape = _alone(_build, count, folder, asked)
    chosen = choose("auto", record.search_ms)[0] if record.method == "hnsw" else "exact"
    graph = _files(count, folder)[1]
    exact, hnsw = _alone(_serve, record, folder)
    size = graph.stat().st_size / 1e6 if graph.exists() else 0.0
    return Point(count, shape, record, chosen, size, exact, hnsw)


def _build(count: int, folder: Path, asked: Asked) -> tuple[IndexRecord, Shape]:
    matrix = natural(count, 1, _motifs(count))
    vectors, graph = _files(count, folder)
    np.save(vectors, matrix)
    return build_index(matrix, graph, threads=available_cpus(), asked=asked), shape_of(matrix)


def _serve(record: IndexRecord, folder: Path) -> tuple[Searched, Searched | None]:
    queries = natural(QUERIES, 2, _motifs(record.count))
    vectors, graph = _files(record.count, folder)
    before = _resident_mb()
    matrix: Matrix = np.load(vectors)
    indexes: dict[str, ReferenceIndex] = {"exact": ExactIndex(matrix)}
    resident = {"exact": _resident_mb() - before}
    if record.method == "hnsw":
        indexes["hnsw"] = load_index(record, graph, matrix)
        resident["hnsw"] = _resident_mb() - before
    times: dict[str, list[float]] = {name: [] for name in indexes}
    found = dict.fromkeys(indexes, 0)
    for query in queries:
        labels = {}
        for name, index in indexes.items():
            started = time.thread_time()
            hits = index.search(query, TOP_K)
            times[name].append((time.thread_time() - started) * 1e3)
            labels[name] = {hit.label for hit in hits}
        for name in indexes:
            found[name] += len(labels[name] & labels["exact"])
    searched = {
        name: Searched(
            statistics.median(times[name]),
            sorted(times[name])[math.ceil(0.99 * QUERIES) - 1],
            resident[name],
            found[name] / (QUERIES * TOP_K),
        )
        for name in indexes
    }
    return searched["exact"], searched.get("hnsw")


def _alone(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Returns what `work` returns in a process of its own, whose memory is its alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments, **named).result()


def _motifs(count: int) -> int:
    return max(1, count // 50)


def _files(count: int, folder: Path) -> tuple[Path, Path]:
    return folder / f"{count}.npy", folder / f"{count}.hnsw"


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _row(point: Point) -> str:
    graph, record = point.hnsw, point.record
    by_graph = (
        f"{graph.median_ms:.2f} / {graph.p99_ms:.2f} | {record.ef} | {min(record.recall.values()):.4f} / "
        f"{graph.recall:.4f} | {graph.resident_mb:.0f}"
        if graph
        else f"- | - | {min(record.recall.values(), default=1.0):.4f} / - | -"
    )
    return (
        f"| {point.count:,} | {point.exact.median_ms:.2f} / {point.exact.p99_ms:.2f} | {by_graph} | "
        f"{point.exact.resident_mb:.0f} | {record.build_s:.1f} | {point.chosen} |"
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.search", description="Measures the search.")
    parser.add_argument(
        "--counts", default="1000,10000,100000", help="references, comma-separated (default %(default)s)"
    )
    parser.add_argument("--folder", type=Path, help="where vectors and graphs are kept meanwhile (default: a new one)")
    parser.add_argument("--exact", action="store_true", help="build no graph")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    points = []
    print("| references | exact, CPU ms (median / p99) | HNSW, CPU ms | ef | recall at build / unseen |", end="")
    print(" HNSW, MB | exact, MB | graph built in, s | chosen |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for count in options.counts.split(","):
            point = measure(int(count), Path(name), "exact" if options.exact else "hnsw")
            points.append(point)
            print(_row(point), flush=True)
    for point in points:
        shape = point.shape
        print(
            f"{point.count:,}: intrinsic dimension {shape.intrinsic_dimension}, median cosine {shape.pair_cosine}, of "
            f"nearest neighbors {shape.nearest_cosine}; the graph's file {point.graph_mb:.0f} MB"
        )
    if options.json:
        options.json.write_text(f"{json.dumps([asdict(point) for point in points], indent=2)}\n")


if __name__ == "__main__":
    main()
