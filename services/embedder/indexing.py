"""Which index an advisor gets: exact search where it is quick, and else HNSW where that is faster and as good.

Exact search is right by construction and needs nothing but the vectors; its time grows with their number, and is
measured first, in a moment. Only where it is slow is a graph thought of, which takes many minutes to grow: two small
ones, of some of the rows, tell within seconds what may be expected of it. How well a graph finds depends on how the
vectors lie. So it is not taken on faith: the breadth `ef` is the smallest at which it finds 0.999 of the true
neighbors, and then it must be faster by `WORTH`, on this machine and for these vectors. What was measured is in the
record, which the manifest of the release holds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from services.core.errors import ConfigurationError
from services.embedder import hnsw
from services.embedder.encoder import Matrix, Vector
from services.embedder.hnsw import HnswIndex
from services.embedder.index import SAME, ExactIndex, Hit, ReferenceIndex, unit_matrix, unit_vector

Asked: TypeAlias = Literal["auto", "exact", "hnsw"]
"""What the operator wants: the better of the two by measurement, or one of them."""
RECALL_GOAL = 0.999
"""Below this recall of a graph the advisor is searched exactly, whatever was asked for."""
QUICK_MS = 10.0
"""Below so many milliseconds of one core for an exact search no graph is grown: a photograph takes several times as
long to decode and embed."""
WORTH = 1.5
"""How many times as fast as exact search a graph must be to be taken: it doubles the memory and takes long to build."""
SAMPLES = (5_000, 20_000)
"""Rows of the two small graphs, where there are more than twice as many."""
# Narrower ones would save tenths of a millisecond, beside the tens that a photograph takes.
_BREADTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
_QUERIES = 192
# About as far from a reference as a new photograph is from the nearest one: a cosine of about 0.87.
_ASIDE = 0.5
_DEPTHS = (10, 100)
_TIMED_QUERIES = 48
_TIMED_TOP_K = 10
_SEED = 100


@dataclass(frozen=True)
class IndexRecord:
    """What the manifest says of an index."""

    method: str
    """`hnsw` or `exact`."""
    count: int
    """Vectors, 1 and more."""
    dimensions: int
    """The length of a vector."""
    ef: int = 0
    """The breadth of a search: the smallest tried that reaches RECALL_GOAL; 0 for `exact`."""
    recall: dict[str, float] = field(default_factory=dict)
    """The share of the true 10 and 100 nearest that a search finds: of `exact` 1, of `hnsw` as found in `queries`
    searches."""
    queries: int = 0
    """How many searches by a graph were compared with exact search; 0 where none was grown."""
    least: float = -1.0
    """The similarity of the nearest reference to that query of them which had none nearer; beyond, the recall is not
    known and the search is exact."""
    search_ms: dict[str, float] = field(default_factory=dict)
    """The median milliseconds of one core for a search for 10, by method, as measured when the index was built."""
    build_s: float = 0.0
    """Seconds that growing the graph took; 0 where none was grown."""
    asked: str = "auto"
    """What the operator wanted: `auto`, `hnsw` or `exact`."""
    reason: str = ""
    """Why `method` was chosen, in words."""

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> IndexRecord:
        """Returns the record that `to_json` gave.

        Raises:
            ConfigurationError: it is none.
        """
        try:
            record = cls(**values)
            if record.method in ("hnsw", "exact") and record.count >= 1 and record.dimensions >= 1:
                return record
        except TypeError:
            pass
        raise ConfigurationError(
            "The release describes an index in a way that this version does not read; pre-compute an advisor again."
        )


def build_index(vectors: npt.NDArray[Any], path: Path, *, threads: int = 1, asked: Asked = "auto") -> IndexRecord:
    """Chooses an advisor's index, writes the graph to `path` where HNSW is chosen, and returns the record.

    Labels are row numbers. No file is written for an advisor that is to be searched exactly.

    Raises:
        ValueError: see `unit_matrix`.
        ConfigurationError: the graph could not be written whole.
    """
    matrix = unit_matrix(vectors)
    exact = ExactIndex(matrix)
    whole = {str(depth): 1.0 for depth in _DEPTHS}
    record = IndexRecord("exact", len(matrix), exact.dimensions, recall=whole, asked=asked)
    if asked == "exact":
        return replace(record, reason="it was asked for")
    queries = _probes(matrix)
    if asked == "auto":
        record = replace(record, search_ms=_timed({"exact": exact}, queries[:_TIMED_QUERIES]))
        if record.search_ms["exact"] < QUICK_MS:
            compared = f"comparing with all takes {record.search_ms['exact']:.3f} ms"
            return replace(record, reason=f"{compared}, and no graph is grown below {QUICK_MS:g} ms")
        if len(matrix) > 2 * SAMPLES[1]:
            expected = _expected_ms(matrix, threads)
            if expected * WORTH > record.search_ms["exact"]:
                return replace(
                    record,
                    reason=f"a search is expected to take {expected:.1f} ms by HNSW, judged by graphs of "
                    f"{SAMPLES[0]:,} and {SAMPLES[1]:,}, and takes {record.search_ms['exact']:.3f} ms exactly",
                )
    started = time.perf_counter()
    graph = hnsw.grow(matrix, threads)
    record = replace(record, build_s=round(time.perf_counter() - started, 3), queries=_QUERIES)
    truth = _truth(exact, queries)
    index, ef, recall = _narrowest(graph, exact, queries, truth)
    if index is None:
        return replace(record, reason=f"HNSW finds no more than {min(recall.values()):.4f} of the true neighbors")
    record = replace(record, search_ms=_timed({"exact": exact, "hnsw": index}, queries[:_TIMED_QUERIES]))
    taken, reason = choose(asked, record.search_ms)
    if taken == "hnsw":
        hnsw.save(graph, path, exact)
        least = min(hits[0].similarity for hits in truth)
        return replace(record, method="hnsw", ef=ef, recall=recall, least=round(least - SAME, 6), reason=reason)
    return replace(record, reason=reason)


def choose(asked: Asked, search_ms: dict[str, float]) -> tuple[str, str]:
    """Returns the method to take, `hnsw` or `exact`, and why; for a graph that reaches RECALL_GOAL."""
    if asked != "auto":
        return asked, "it was asked for"
    graph, all_of_them = search_ms["hnsw"], search_ms["exact"]
    compared = f"a search takes {graph:.3f} ms by HNSW, {all_of_them:.3f} ms exactly"
    if graph * WORTH <= all_of_them:
        return "hnsw", compared
    return "exact", f"{compared}, and a graph must be {WORTH} times as fast to be worth its memory"


def load_index(record: IndexRecord, path: Path | None, vectors: npt.NDArray[Any]) -> ReferenceIndex:
    """Returns the index of a release: of `vectors`, and for `hnsw` of the graph in `path`, which must be verified.

    Raises:
        ConfigurationError: the vectors or the graph's header do not fit the record.
    """
    if vectors.shape != (record.count, record.dimensions):
        raise ConfigurationError("The release holds other embeddings than its manifest says.")
    try:
        exact = ExactIndex(vectors)
    except ValueError as error:
        raise ConfigurationError(f"The release cannot be searched: {error}.") from error
    if record.method == "exact" or path is None:
        return exact
    return HnswIndex(hnsw.load(path, exact), exact, max(record.ef, 1), record.least)


def _narrowest(
    graph: Any, exact: ExactIndex, queries: Sequence[Vector], truth: Sequence[list[Hit]]
) -> tuple[HnswIndex | None, int, dict[str, float]]:
    """Returns the graph at the smallest breadth that reaches RECALL_GOAL, that breadth, and the recall by depth.

    Where none does, the graph is None and the recall that of the broadest search.
    """
    count = exact.count
    recall: dict[str, float] = {}
    # A search as broad as the index is large visits everything, which ends the ladder for small ones.
    breadths = [ef for ef in _BREADTHS if ef < count] + [max(count, _BREADTHS[0])] * (count <= _BREADTHS[-1])
    for ef in breadths:
        index = HnswIndex(graph, exact, ef)
        recall = {str(depth): _recall(index, queries, truth, min(depth, count)) for depth in _DEPTHS}
        # The references that a server asks for before it serves the index must be among those found.
        if min(recall.values()) >= RECALL_GOAL and hnsw.finds_itself(index, exact):
            return index, ef, recall
    return None, 0, recall


def _expected_ms(matrix: Matrix, threads: int) -> float:
    """Returns the milliseconds that a search by the graph of a matrix may be expected to take; infinity where even a
    small graph misses RECALL_GOAL.

    At that recall the time grows like a power of the number of rows, which is measured between the two small graphs; by
    chance the power comes out above 1, which would be steeper than to compare with all.
    """
    generator = np.random.default_rng(_SEED)
    times = []
    for size in SAMPLES:
        rows = matrix[np.sort(generator.choice(len(matrix), size, replace=False))]
        queries, some = _probes(rows), ExactIndex(rows)
        graph = hnsw.grow(rows, threads, len(matrix))
        index, _, _ = _narrowest(graph, some, queries, _truth(some, queries))
        if index is None:
            return math.inf
        times.append(_timed({"hnsw": index}, queries[:_TIMED_QUERIES])["hnsw"])
    power = min(1.0, max(0.0, math.log(times[1] / times[0]) / math.log(SAMPLES[1] / SAMPLES[0])))
    return float(times[1] * (len(matrix) / SAMPLES[1]) ** power)


def _truth(exact: ExactIndex, queries: Sequence[Vector]) -> list[list[Hit]]:
    """Returns the true nearest of each query, as many as the recall is measured of."""
    return [exact.search(query, min(max(_DEPTHS), exact.count)) for query in queries]


def _timed(indexes: dict[str, ReferenceIndex], queries: Sequence[Vector]) -> dict[str, float]:
    """Returns the median milliseconds of one core for a search, by index: time of the CPU, which no neighbor lengthens.

    The indexes take turns. Neither search has more than one thread.
    """
    times: dict[str, list[float]] = {name: [] for name in indexes}
    for query in queries:
        for name, index in indexes.items():
            started = time.thread_time()
            index.search(query, _TIMED_TOP_K)
            times[name].append(time.thread_time() - started)
    return {name: round(statistics.median(each) * 1e3, 4) for name, each in times.items()}


def _probes(matrix: Matrix) -> list[Vector]:
    """Returns queries as photographs come: a third references themselves, the others beside one.

    Beside it in a direction and as far as references differ, so that they lie where photographs may.
    """
    generator = np.random.default_rng(_SEED)
    count = len(matrix)
    first, second, third = (generator.integers(count, size=_QUERIES) for _ in range(3))
    beside = np.arange(_QUERIES)[:, None] % 3 > 0
    made = matrix[first] + np.where(beside, _ASIDE * (matrix[second] - matrix[third]), 0.0)
    # Of few references, some cancel each other.
    made = np.where(np.linalg.norm(made, axis=1, keepdims=True) < 1e-3, matrix[first], made)
    return [unit_vector(row, matrix.shape[1]) for row in made]


def _recall(index: ReferenceIndex, queries: Sequence[Vector], truth: Sequence[list[Hit]], depth: int) -> float:
    """Returns the share of the true `depth` nearest that is found; an equally near one counts as found."""
    found = 0
    for query, hits in zip(queries, truth, strict=True):
        least = hits[depth - 1].similarity - SAME
        found += sum(hit.similarity >= least for hit in index.search(query, depth))
    return found / (depth * len(queries))
