"""The search by a graph: HNSW (Malkov & Yashunin 2016) of hnswlib.

hnswlib trusts its caller: a vector of another length makes it read beyond its memory, NaN is taken in, and a damaged
file ends the process. So it is used nowhere else, is given only validated vectors, loads a file only from a verified
release and only when its header fits, and is never added to once it is served. Its distances do not leave this module.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import numpy.typing as npt

from services.core.errors import ConfigurationError
from services.embedder.encoder import Matrix, Vector
from services.embedder.index import ExactIndex, Hit, check_query

LARGE = 50_000
"""From this many vectors on a graph gets twice the links, chosen twice as carefully; else its recall is too low."""
_LINKS = 16
_EF_CONSTRUCTION = 200
_AT_ONCE = 1_000
SPARE = 16
"""Neighbors fetched beyond top_k, so that equal similarities at its edge come out in the order of their labels."""
_SEED = 100


class HnswIndex:
    """Lets a graph name the candidates, and ranks them by their vectors.

    The vectors are held beside the graph, which has its own copy and gives it out more slowly than a search takes. The
    recall was measured with queries that have a reference at least as similar as `least`; one that has none (words lie
    far from all photographs) is answered by comparing with all.
    """

    def __init__(self, graph: Any, vectors: ExactIndex, ef: int, least: float = -1.0) -> None:
        self._graph = graph
        self._graph.set_ef(ef)
        self._vectors = vectors
        self._least = least

    @property
    def count(self) -> int:
        """The number of vectors."""
        return self._vectors.count

    def search(self, query: Vector, top_k: int) -> list[Hit]:
        """See ReferenceIndex."""
        check_query(query, self._vectors.dimensions)
        try:
            # hnswlib searches at least as broadly as it is asked for neighbors.
            found, _ = self._graph.knn_query(query[None, :], k=min(top_k + SPARE, self.count), num_threads=1)
        except RuntimeError:
            # The graph did not reach that many, as where many vectors are equal.
            return self._vectors.search(query, top_k)
        hits = self._vectors.ranked(found[0].astype(np.int64), query, top_k)
        return hits if hits[0].similarity >= self._least else self._vectors.search(query, top_k)

    def search_among(self, query: Vector, top_k: int, labels: npt.NDArray[np.int64]) -> list[Hit]:
        """See ReferenceIndex."""
        return self._vectors.search_among(query, top_k, labels)


def grow(matrix: Matrix, threads: int, size: int = 0) -> Any:
    """Returns hnswlib's graph of the rows of a `unit_matrix`; with one thread, equal rows give equal graphs.

    `size`: how many rows there are of which these are a sample; the graph is like the one of all.
    """
    count, dimensions = matrix.shape
    graph = hnswlib.Index(space="ip", dim=dimensions)
    care = 2 if (size or count) >= LARGE else 1
    graph.init_index(max_elements=count, M=_LINKS * care, ef_construction=_EF_CONSTRUCTION * care, random_seed=_SEED)
    # In parts, since building takes minutes and Python answers Ctrl-C only between two calls.
    for start in range(0, count, _AT_ONCE):
        rows = matrix[start : start + _AT_ONCE]
        graph.add_items(rows, np.arange(start, start + len(rows)), num_threads=threads)
    return graph


def save(graph: Any, path: Path, vectors: ExactIndex) -> None:
    """Writes a graph and reads it back.

    Raises:
        ConfigurationError: it was not written whole; hnswlib does not notice a full disk.
    """
    graph.save_index(str(path))
    try:
        index = HnswIndex(load(path, vectors), vectors, 1)
        if finds_itself(index, vectors):
            return
    except (ConfigurationError, OSError):
        pass
    raise ConfigurationError(f"{path.name} could not be written whole; see whether the disk that holds it is full.")


def load(path: Path, vectors: ExactIndex) -> Any:
    """Returns the graph of these vectors that `save` wrote. The file must be verified.

    Raises:
        ConfigurationError: the file's header is not that of a graph of so many vectors of this length.
    """
    _check_header(path, vectors.count, vectors.dimensions)
    graph = hnswlib.Index(space="ip", dim=vectors.dimensions)
    try:
        graph.load_index(str(path), max_elements=vectors.count)
    except (RuntimeError, MemoryError) as error:
        raise ConfigurationError(f"{path.name} cannot be loaded ({error}); pre-compute the advisor again.") from error
    return graph


def finds_itself(index: HnswIndex, vectors: ExactIndex) -> bool:
    """Returns whether the first, a middle and the last vector are found by themselves."""
    return all(
        index.search(vectors.vector(label), 1)[0].similarity > 1 - 1e-5
        for label in {0, vectors.count // 2, vectors.count - 1}
    )


def _check_header(path: Path, count: int, dimensions: int) -> None:
    """Refuses a file that hnswlib would load as something else: it does not compare the sizes itself."""
    with path.open("rb") as file:
        header = file.read(48)
    if len(header) == 48:
        _, capacity, held, _, label_offset, data_offset = struct.unpack("<6Q", header)
        if (capacity, held, label_offset - data_offset) == (count, count, dimensions * 4):
            return
    raise ConfigurationError(
        f"{path.name} is not an index of {count} x {dimensions} numbers; pre-compute the advisor again."
    )
