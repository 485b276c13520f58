"""Neighbors: the right ones, in a certain order, and nothing hostile reaches hnswlib."""

from __future__ import annotations

import itertools
from pathlib import Path

import hnswlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.core.errors import ConfigurationError, InvalidEmbedding
from services.embedder.encoder import Matrix, Vector
from services.embedder.hnsw import HnswIndex
from services.embedder.index import ExactIndex, ReferenceIndex, unit_matrix, unit_vector
from services.embedder.indexing import IndexRecord, build_index, load_index


def clustered(count: int, dimensions: int = 32, seed: int = 0) -> Matrix:
    """Returns unit vectors around 20 centres."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(20, dimensions))
    vectors = centres[generator.integers(20, size=count)] + 0.3 * generator.normal(size=(count, dimensions))
    return unit_matrix(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def by_graph(matrix: Matrix, path: Path) -> ReferenceIndex:
    """Returns the vectors' graph, written to `path` and loaded."""
    return load_index(build_index(matrix, path, asked="hnsw"), path, matrix)


def brute(matrix: Matrix, query: Vector, top_k: int) -> list[int]:
    """Returns the labels that a search should return."""
    similarities = (matrix.astype(np.float64) * query.astype(np.float64)).sum(axis=1).astype(np.float32)
    return [int(label) for label in np.lexsort((np.arange(len(matrix)), -similarities))[:top_k]]


@pytest.mark.parametrize("count", [1, 2, 17, 300, 1500])
@pytest.mark.parametrize("method", ["hnsw", "exact"])
def test_both_methods_find_what_comparing_with_all_finds(tmp_path: Path, count: int, method: str) -> None:
    matrix = clustered(count)
    searched = by_graph(matrix, tmp_path / "one.hnsw") if method == "hnsw" else ExactIndex(matrix)
    assert isinstance(searched, HnswIndex) == (method == "hnsw")
    assert searched.count == count
    for query in clustered(20, seed=1):
        hits = searched.search(query, 10)
        assert [hit.label for hit in hits] == brute(matrix, query, 10)
        for hit in hits:
            assert hit.similarity == pytest.approx(float(matrix[hit.label] @ query), abs=1e-5)
            assert -1.0 <= hit.similarity <= 1.0


def test_more_are_asked_for_than_there_are(tmp_path: Path) -> None:
    matrix = clustered(5)
    for searched in (by_graph(matrix, tmp_path / "one.hnsw"), ExactIndex(matrix)):
        assert sorted(hit.label for hit in searched.search(matrix[0], 100)) == [0, 1, 2, 3, 4]


def test_a_subset_is_searched_exactly(tmp_path: Path) -> None:
    matrix = clustered(500)
    # Few of all and most of all are compared in two ways.
    few, most = np.arange(3, 500, 7), np.delete(np.arange(500), [3, 77, 400])
    for each, subset in itertools.product((by_graph(matrix, tmp_path / "one.hnsw"), ExactIndex(matrix)), (few, most)):
        for query in clustered(5, seed=2):
            labels = [hit.label for hit in each.search_among(query, 10, subset)]
            assert labels == [int(subset[place]) for place in brute(matrix[subset], query, 10)]
        assert len(each.search_among(matrix[0], 100, subset[:3])) == 3
        assert each.search_among(matrix[0], 10, subset[:0]) == []


@pytest.mark.parametrize("count", [40, 1200])
def test_equal_vectors_come_in_the_order_of_their_labels(tmp_path: Path, count: int) -> None:
    matrix = clustered(count)
    matrix[3:9] = matrix[20]
    for each in (ExactIndex(matrix), by_graph(matrix, tmp_path / "one.hnsw")):
        hits = each.search(matrix[20], 4)
        assert [hit.label for hit in hits] == [3, 4, 5, 6]
        assert len({hit.similarity for hit in hits}) == 1


def test_a_thousand_equal_vectors_are_searched_all_the_same(tmp_path: Path) -> None:
    matrix = unit_matrix(np.repeat(clustered(1), 1000, axis=0))
    searched = by_graph(matrix, tmp_path / "one.hnsw")
    assert len(searched.search(matrix[0], 100)) == 100


def test_the_same_vectors_give_the_same_file(tmp_path: Path) -> None:
    matrix = clustered(200)
    for name in ("one", "two"):
        build_index(matrix, tmp_path / name, asked="hnsw")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


HOSTILE = {
    "too short": [1.0] * 31,
    "too long": [1.0] * 33,
    "empty": [],
    "NaN": [float("nan")] + [1.0] * 31,
    "infinite": [float("inf")] + [1.0] * 31,
    "zero": [0.0] * 32,
}


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_embedding_is_refused(values: list[float]) -> None:
    with pytest.raises(InvalidEmbedding):
        unit_vector(values, 32)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=8, max_size=8))
@settings(deadline=None)
def test_any_finite_embedding_keeps_its_direction(values: list[float]) -> None:
    if not any(values):
        return
    vector = unit_vector(values, 8)
    assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(1.0, abs=1e-6)
    largest = max(range(8), key=lambda place: abs(values[place]))
    assert np.sign(vector[largest]) == np.sign(values[largest])


def test_a_query_that_was_not_validated_reaches_neither_index(tmp_path: Path) -> None:
    matrix = clustered(50)
    hostile = (matrix[0][:31], matrix[0].astype(np.float64), np.full(32, np.nan, np.float32), matrix[:1])
    for searched, query in itertools.product((by_graph(matrix, tmp_path / "one.hnsw"), ExactIndex(matrix)), hostile):
        with pytest.raises(ValueError, match="finite float32"):
            searched.search(query, 3)
        with pytest.raises(ValueError, match="finite float32"):
            searched.search_among(query, 3, np.arange(5))


@pytest.mark.parametrize(
    "vectors",
    [np.zeros((3, 8)), np.full((2, 8), np.nan), np.ones((2, 8)), np.empty((0, 8)), np.ones(8) / np.sqrt(8)],
    ids=["zero", "NaN", "long", "none", "one dimension"],
)
def test_references_that_are_not_unit_vectors_are_refused(tmp_path: Path, vectors: np.ndarray) -> None:
    with pytest.raises(ValueError, match="embedding"):
        build_index(vectors, tmp_path / "one.hnsw")


def test_a_file_that_does_not_fit_its_record_never_reaches_hnswlib(tmp_path: Path) -> None:
    path = tmp_path / "one.hnsw"
    matrix = clustered(50)
    record = build_index(matrix, path, asked="hnsw")
    for count, dimensions in ((50, 16), (49, 32), (51, 32), (50, 64)):
        with pytest.raises(ConfigurationError, match="pre-compute"):
            load_index(IndexRecord("hnsw", count, dimensions, 128), path, clustered(count, dimensions))
        with pytest.raises(ConfigurationError, match="other embeddings"):
            load_index(IndexRecord("hnsw", count, dimensions, 128), path, matrix)
    whole = path.read_bytes()
    for length in (0, 47, 48, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigurationError, match=r"one\.hnsw"):
            load_index(record, path, matrix)


def test_a_disk_that_is_full_while_the_graph_is_written_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = hnswlib.Index

    class Truncating:
        """hnswlib's index on a full disk: save_index says nothing and writes a part."""

        def __init__(self, **options: object) -> None:
            self._index = genuine(**options)

        def __getattr__(self, name: str) -> object:
            return getattr(self._index, name)

        def save_index(self, path: str) -> None:
            self._index.save_index(path)
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) * 2 // 3])

    monkeypatch.setattr(hnswlib, "Index", Truncating)
    with pytest.raises(ConfigurationError, match="disk"):
        build_index(clustered(50), tmp_path / "one.hnsw", asked="hnsw")
