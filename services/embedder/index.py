"""Nearest references by cosine: the port, the search that compares with all, and what may be searched for.

An index is made once for each advisor of a release and never changes. Vectors have unit length, so the inner product
is the cosine; similarities are computed from the vectors in double precision, whichever index found them. Every vector
is validated here: what lies behind the port may trust its caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from services.core.errors import InvalidEmbedding
from services.embedder.encoder import Matrix, Vector

MAX_TOP_K = 100
"""The greatest number of neighbors that a search returns."""
SAME = 1e-6
"""Two similarities that differ by less may be the same, as single precision has them."""
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Hit:
    """One neighbor."""

    label: int
    """Its place in the order in which the vectors were given, 0 and more."""
    similarity: float
    """The cosine, -1 to 1."""


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
    """Returns embeddings of references as every index needs them: float32, C order.

    Raises:
        ValueError: they are not a matrix of 1 and more rows, or a row is not finite or not of length 1 (0.1%).
    """
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"embeddings of shape {matrix.shape} are not a matrix of one and more rows")
    # In double precision without a copy of the matrix in it. NaN compares as not near, so this refuses it too.
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64, casting="same_kind"))
    if not (np.abs(lengths - 1.0) <= _UNIT_TOLERANCE).all():
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

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return int(self._vectors.shape[1])

    def vector(self, label: int) -> Vector:
        """Returns a vector."""
        vector: Vector = self._vectors[label]
        return vector

    def search(self, query: Vector, top_k: int) -> list[Hit]:
        """See ReferenceIndex."""
        check_query(query, self.dimensions)
        return self.ranked(_contenders(_similarities(self._vectors, query), top_k), query, top_k)

    def search_among(self, query: Vector, top_k: int, labels: npt.NDArray[np.int64]) -> list[Hit]:
        """See ReferenceIndex."""
        check_query(query, self.dimensions)
        # Gathering rows costs a copy of them, which is dearer than comparing with all where most are wanted.
        few = len(labels) * 4 < self.count
        similarities = (
            _similarities(self._vectors[labels], query) if few else _similarities(self._vectors, query)[labels]
        )
        return self.ranked(labels[_contenders(similarities, top_k)], query, top_k)

    def ranked(self, labels: npt.NDArray[np.int64], query: Vector, top_k: int) -> list[Hit]:
        """Returns the `top_k` nearest of a few labels, nearest first, equal ones in the order of their labels."""
        similarities = (self._vectors[labels].astype(np.float64) * query.astype(np.float64)).sum(axis=1)
        similarities = np.clip(similarities, -1.0, 1.0).astype(np.float32)
        order = np.lexsort((labels, -similarities))[:top_k]
        return [Hit(int(labels[place]), float(similarities[place])) for place in order]


def check_query(query: Vector, dimensions: int) -> None:
    """The last gate before a search.

    Raises:
        ValueError: the query is not a finite vector of this length and type; a fault of ours, not of a caller.
    """
    if query.shape != (dimensions,) or query.dtype != np.float32 or not np.isfinite(query).all():
        raise ValueError(f"a query must be {dimensions} finite float32 numbers")


def _similarities(vectors: Matrix, query: Vector) -> npt.NDArray[np.float32]:
    """Returns the inner products, row by row.

    A matrix product would be shared out among BLAS's threads, each of which has to wait for a core while the model
    computes: 10,000 rows took 0.5 ms in this way and 20 ms in that on two busy cores.
    """
    products: npt.NDArray[np.float32] = np.vecdot(vectors, query)
    return products


def _contenders(similarities: npt.NDArray[np.float32], top_k: int) -> npt.NDArray[np.int64]:
    """Returns the places of all that may be among the `top_k`: rounding in single precision must not decide."""
    if top_k >= len(similarities):
        return np.arange(len(similarities))
    least = np.partition(similarities, -top_k)[-top_k]
    return np.flatnonzero(similarities >= least - SAME)
