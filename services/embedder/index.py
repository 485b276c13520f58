"""Nearest references by cosine: one immutable index an advisor.

hnswlib trusts its caller: a vector of another length makes it read beyond its memory, NaN is taken in, and a damaged
file ends the process. So every vector is validated here before hnswlib sees it, a file is loaded only from a verified
release and only when its header fits, and an index that is served is never added to. Vectors have unit length, so the
inner product is the cosine; hnswlib's distances do not leave this module: similarities are computed anew from the
vectors, in double precision.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import hnswlib
import numpy as np
import numpy.typing as npt

from services.core.errors import ConfigurationError, InvalidEmbedding
from services.embedder.encoder import Matrix, Vector

MAX_TOP_K = 100
"""The greatest number of neighbors that a search returns."""
RECALL_GOAL = 0.999
"""Below this recall of an index the advisor is searched exactly."""
# Links an element and the breadth of the search while building (Malkov & Yashunin 2016); recall hardly gains beyond.
_M = 16
_EF_CONSTRUCTION = 200
_SEED = 100
# Neighbors fetched beyond top_k, so that equal similarities at its edge come out in the order of their labels.
_SPARE = 16
_BREADTHS = (128, 256, 512, 1024, 2048)
_QUERIES = 192
_DEPTHS = (10, 100)
# Two similarities that differ by less are the same photograph as far as recall is concerned.
_SAME = 1e-6
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Hit:
    """One neighbor."""

    label: int
    """Its place in the order in which the vectors were given, 0 and more."""
    similarity: float
    """The cosine, -1 to 1."""


@dataclass(frozen=True)
class IndexRecord:
    """What the manifest says of an index."""

    method: str
    """`hnsw`, or `exact` where HNSW does not reach RECALL_GOAL."""
    count: int
    """Vectors, 1 and more."""
    dimensions: int
    """The length of a vector."""
    ef: int = 0
    """The breadth of a search: the smallest tried that reaches RECALL_GOAL; 0 for `exact`."""
    recall: dict[str, float] = field(default_factory=dict)
    """The share of the true 10 and 100 nearest that `queries` searches found at this `ef`."""
    queries: int = 0
    """How many searches were compared with exact search."""

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
        raise ConfigurationError("The release describes an index in a way that this version does not read.")


class ReferenceIndex(Protocol):
    """What is searched. Another vector engine takes part by this port."""

    @property
    def count(self) -> int:
        """The number of vectors."""

    def search(self, query: Vector, top_k: int) -> list[Hit]:
        """Returns the `top_k` (1 to 1,001, or `count` if that is less) nearest to a unit vector, nearest first.

        Equal similarities come in the order of their labels. Safe to call from several threads at once.
        """

    def search_among(self, query: Vector, top_k: int, labels: npt.NDArray[np.int64]) -> list[Hit]:
        """Returns what `search` returns, among the given labels (ascending) only; always exact.

        Comparing with a subset beats a graph search that has to pass over what does not fit.
        """


def unit_vector(values: Iterable[float], dimensions: int) -> Vector:
    """Returns a caller's embedding as a unit vector; its direction is kept, its length is not looked at.

    Raises:
        InvalidEmbedding: it has another number of values, one is not finite, or all are zero.
    """
    vector = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float64)
    if vector.shape != (dimensions,):
        raise InvalidEmbedding(
            f"The embedding has {vector.size} values, the encoder's have {dimensions}; send one made by Embed.",
            field="embedding",
        )
    if not np.isfinite(vector).all():
        raise InvalidEmbedding(
            "The embedding has a value that is not finite; send one made by Embed.", field="embedding"
        )
    largest = float(np.abs(vector).max())
    if largest == 0.0:
        raise InvalidEmbedding(
            "The embedding is zero, which has no direction; send one made by Embed.", field="embedding"
        )
    # Divided twice, so that no square overflows or vanishes.
    vector = vector / largest
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def unit_matrix(vectors: npt.NDArray[Any]) -> Matrix:
    """Returns embeddings of references as hnswlib needs them: float32, C order.

    Raises:
        ValueError: they are not a matrix of 1 and more rows, or a row is not finite or not of length 1 (0.1%).
    """
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"embeddings of shape {matrix.shape} are not a matrix of one and more rows")
    # NaN compares as not near, so this refuses it too.
    if not (np.abs(np.linalg.norm(matrix.astype(np.float64), axis=1) - 1.0) <= _UNIT_TOLERANCE).all():
        raise ValueError("an embedding is not finite, or its length is not 1")
    return matrix


class ExactIndex:
    """Compares the query with every vector."""

    def __init__(self, vectors: npt.NDArray[Any]) -> None:
        self._vectors = unit_matrix(vectors)

    @property
    def count(self) -> int:
        """The number of vectors."""
        return len(self._vectors)

    def search(self, query: Vector, top_k: int) -> list[Hit]:
        """See ReferenceIndex."""
        _check(query, self._vectors.shape[1])
        similarities = self._vectors @ query
        if top_k < len(similarities):
            least = np.partition(similarities, -top_k)[-top_k]
            # Rounding in single precision must not decide who is in.
            labels = np.flatnonzero(similarities >= least - _SAME)
        else:
            labels = np.arange(len(similarities))
        return _ranked(labels, self._vectors[labels], query, top_k)

    def search_among(self, query: Vector, top_k: int, labels: npt.NDArray[np.int64]) -> list[Hit]:
        """See ReferenceIndex."""
        _check(query, self._vectors.shape[1])
        return _ranked(labels, self._vectors[labels], query, top_k)


class HnswIndex:
    """Searches a graph (hnswlib)."""

    def __init__(self, graph: Any, record: IndexRecord) -> None:
        self._graph = graph
        self._graph.set_ef(max(record.ef, MAX_TOP_K + _SPARE))
        self._dimensions = record.dimensions
        self._count = record.count

    @property
    def count(self) -> int:
        """The number of vectors."""
        return self._count

    def search(self, query: Vector, top_k: int) -> list[Hit]:
        """See ReferenceIndex."""
        _check(query, self._dimensions)
        wanted = min(top_k + _SPARE, self._count)
        try:
            # hnswlib searches at least as broadly as it is asked for neighbors.
            found, _ = self._graph.knn_query(query[None, :], k=wanted, num_threads=1)
        except RuntimeError:
            # The graph did not reach that many, as where many vectors are equal. Rare, so the price does not matter.
            found = np.arange(self._count)[None, :]
        labels = found[0].astype(np.int64)
        return _ranked(labels, self._vectors(labels), query, top_k)

    def search_among(self, query: Vector, top_k: int, labels: npt.NDArray[np.int64]) -> list[Hit]:
        """See ReferenceIndex."""
        _check(query, self._dimensions)
        return _ranked(labels, self._vectors(labels), query, top_k) if len(labels) else []

    def _vectors(self, labels: npt.NDArray[np.int64]) -> Matrix:
        return np.asarray(self._graph.get_items(labels), dtype=np.float32)


def build_index(vectors: npt.NDArray[Any], path: Path, *, threads: int = 1) -> IndexRecord:
    """Writes the index of an advisor's embeddings to `path` and returns its record.

    Labels are row numbers. No file is written for an advisor that is to be searched exactly.

    Raises:
        ValueError: see `unit_matrix`.
    """
    matrix = unit_matrix(vectors)
    count, dimensions = matrix.shape
    graph = hnswlib.Index(space="ip", dim=dimensions)
    graph.init_index(max_elements=count, M=_M, ef_construction=_EF_CONSTRUCTION, random_seed=_SEED)
    graph.add_items(matrix, np.arange(count), num_threads=threads)
    exact = ExactIndex(matrix)
    queries = _probes(matrix)
    truth = [exact.search(query, min(max(_DEPTHS), count)) for query in queries]
    record = IndexRecord("exact", count, dimensions)
    # A search as broad as the index is large visits everything, which ends the ladder for small ones.
    breadths = [ef for ef in _BREADTHS if ef < count] + [max(count, _BREADTHS[0])] * (count <= _BREADTHS[-1])
    for ef in breadths:
        candidate = HnswIndex(graph, IndexRecord("hnsw", count, dimensions, ef))
        recall = {str(depth): _recall(candidate, queries, truth, min(depth, count)) for depth in _DEPTHS}
        # The references that a server asks for before it serves the index must be among those found.
        found = all(candidate.search(matrix[n], 1)[0].similarity > 1 - 1e-5 for n in {0, count // 2, count - 1})
        if found and min(recall.values()) >= RECALL_GOAL:
            record = IndexRecord("hnsw", count, dimensions, ef, recall, len(queries))
            graph.save_index(str(path))
            _read_back(path, record, matrix)
            break
    return record


def load_index(record: IndexRecord, path: Path | None, vectors: npt.NDArray[Any] | None) -> ReferenceIndex:
    """Returns the index of a release: of `path` for `hnsw`, of `vectors` for `exact`. The file must be verified.

    Raises:
        ConfigurationError: the file's header does not fit the record, or the vectors do not.
    """
    if record.method == "exact" or path is None:
        if vectors is None or vectors.shape != (record.count, record.dimensions):
            raise ConfigurationError("The release holds other embeddings than its manifest says.")
        try:
            return ExactIndex(vectors)
        except ValueError as error:
            raise ConfigurationError(f"The release cannot be searched: {error}.") from error
    _check_header(path, record)
    graph = hnswlib.Index(space="ip", dim=record.dimensions)
    try:
        graph.load_index(str(path), max_elements=record.count)
    except (RuntimeError, MemoryError) as error:
        raise ConfigurationError(f"{path.name} cannot be loaded ({error}); pre-compute the advisor again.") from error
    return HnswIndex(graph, record)


def _read_back(path: Path, record: IndexRecord, matrix: Matrix) -> None:
    """Refuses a file that was not written whole: hnswlib does not notice a full disk."""
    try:
        index = load_index(record, path, None)
        if all(index.search(matrix[n], 1)[0].similarity > 1 - 1e-5 for n in {0, record.count // 2, record.count - 1}):
            return
    except (ConfigurationError, OSError):
        pass
    raise ConfigurationError(f"{path.name} could not be written whole; see whether the disk that holds it is full.")


def _check_header(path: Path, record: IndexRecord) -> None:
    """Refuses a file that hnswlib would load as something else: it does not compare the sizes itself."""
    with path.open("rb") as file:
        header = file.read(48)
    if len(header) == 48:
        _, capacity, count, _, label_offset, data_offset = struct.unpack("<6Q", header)
        if (capacity, count, label_offset - data_offset) == (record.count, record.count, record.dimensions * 4):
            return
    raise ConfigurationError(
        f"{path.name} is not an index of {record.count} x {record.dimensions} numbers; pre-compute the advisor again."
    )


def _check(query: Vector, dimensions: int) -> None:
    """The last gate before the search: a fault here is ours, not a caller's."""
    if query.shape != (dimensions,) or query.dtype != np.float32 or not np.isfinite(query).all():
        raise ValueError(f"a query must be {dimensions} finite float32 numbers")


def _ranked(labels: npt.NDArray[np.int64], vectors: Matrix, query: Vector, top_k: int) -> list[Hit]:
    # Row by row and not as a matrix product, whose rounding may depend on the row's place: equal vectors stay equal.
    similarities = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    similarities = np.clip(similarities, -1.0, 1.0).astype(np.float32)
    order = np.lexsort((labels, -similarities))[:top_k]
    return [Hit(int(labels[place]), float(similarities[place])) for place in order]


def _probes(matrix: Matrix) -> list[Vector]:
    """Returns queries as they come: a reference itself, something between two, and something beside one."""
    generator = np.random.default_rng(_SEED)
    count = len(matrix)
    first, second = (generator.integers(count, size=_QUERIES) for _ in range(2))
    noise = generator.normal(size=(_QUERIES, matrix.shape[1])) / np.sqrt(matrix.shape[1])
    kinds = np.arange(_QUERIES)[:, None] % 3
    made = matrix[first] + np.where(kinds == 1, matrix[second], 0.0) + np.where(kinds == 2, noise, 0.0)
    # Two opposite references have nothing between them.
    made = np.where(np.linalg.norm(made, axis=1, keepdims=True) < 1e-3, matrix[first], made)
    return [unit_vector(row, matrix.shape[1]) for row in made]


def _recall(index: HnswIndex, queries: list[Vector], truth: list[list[Hit]], depth: int) -> float:
    """Returns the share of the true `depth` nearest that is found; an equally near one counts as found."""
    found = 0
    for query, hits in zip(queries, truth, strict=True):
        least = hits[depth - 1].similarity - _SAME
        found += sum(hit.similarity >= least for hit in index.search(query, depth))
    return found / (depth * len(queries))
