"""Search curves: microseconds, recall, build time and memory by the number of references.

    python -m tests.bench.search [--counts 1000,10000] [--json FILE]

512 numbers a reference, around one centre for every 50, as photographs gather around motifs. 100,000 take minutes and
200 MB to build. HNSW and exact search take turns on the same queries; the recall is the one that goes into a release.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from services.core.settings import available_cpus
from services.embedder.encoder import Matrix
from services.embedder.index import ExactIndex, ReferenceIndex, build_index, load_index, unit_matrix

DIMENSIONS = 512
QUERIES = 200


@dataclass(frozen=True)
class Point:
    """One size of an advisor."""

    count: int
    method: str
    ef: int
    recall: float
    build_s: float
    file_mb: float
    load_ms: float
    search_us: float
    exact_us: float


def clustered(count: int, seed: int) -> Matrix:
    """Returns unit vectors around count / 50 centres that no seed changes."""
    centres = np.random.default_rng(0).normal(size=(max(1, count // 50), DIMENSIONS)).astype(np.float32)
    generator = np.random.default_rng(seed)
    vectors = centres[generator.integers(len(centres), size=count)]
    vectors += 0.7 * generator.standard_normal((count, DIMENSIONS), dtype=np.float32)
    return unit_matrix(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def measure(count: int, folder: Path) -> Point:
    """Returns the figures of one size; times are medians."""
    matrix, path = clustered(count, 1), folder / f"{count}.hnsw"
    begun = time.perf_counter()
    record = build_index(matrix, path, threads=available_cpus())
    built = time.perf_counter()
    index = load_index(record, path if record.method == "hnsw" else None, matrix)
    loaded = time.perf_counter()
    exact = ExactIndex(matrix)
    times: dict[str, list[float]] = {"index": [], "exact": []}
    for query in clustered(max(QUERIES, count // 50), 2)[:QUERIES]:
        searched: dict[str, ReferenceIndex] = {"index": index, "exact": exact}
        for name, one in searched.items():
            started = time.perf_counter()
            one.search(query, 10)
            times[name].append((time.perf_counter() - started) * 1e6)
    return Point(
        count=count,
        method=record.method,
        ef=record.ef,
        recall=min(record.recall.values(), default=1.0),
        build_s=built - begun,
        file_mb=path.stat().st_size / 1e6 if path.exists() else 0.0,
        load_ms=(loaded - built) * 1e3,
        search_us=statistics.median(times["index"]),
        exact_us=statistics.median(times["exact"]),
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.search", description="Measures the search.")
    parser.add_argument("--counts", default="1000,10000", help="references, comma-separated (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    points = []
    with tempfile.TemporaryDirectory() as name:
        for count in options.counts.split(","):
            point = measure(int(count), Path(name))
            points.append(asdict(point))
            print(
                f"{point.count}: {point.method}, ef {point.ef}, recall {point.recall:.4f}, "
                f"search {point.search_us:.0f} us (exact {point.exact_us:.0f} us), "
                f"built in {point.build_s:.1f} s, {point.file_mb:.0f} MB, loaded in {point.load_ms:.0f} ms",
                flush=True,
            )
    if options.json:
        options.json.write_text(f"{json.dumps(points, indent=2)}\n")


if __name__ == "__main__":
    main()
