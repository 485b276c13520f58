"""Which index an advisor gets, and that what was measured is written down."""

from __future__ import annotations

import re
import signal
from dataclasses import replace
from pathlib import Path

import hnswlib
import numpy as np
import pytest

from services.core.errors import ConfigurationError
from services.embedder import hnsw, indexing
from services.embedder.encoder import Matrix
from services.embedder.hnsw import HnswIndex
from services.embedder.index import ExactIndex, ReferenceIndex, unit_matrix, unit_vector
from services.embedder.indexing import WORTH, Asked, IndexRecord, build_index, choose, load_index
from tests.unit.embedder.test_index import brute, clustered


def test_where_exact_search_is_quick_no_graph_is_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def grow(*_: object) -> None:
        raise AssertionError("a graph is grown")

    monkeypatch.setattr(hnsw, "grow", grow)
    record = build_index(clustered(300), tmp_path / "one.hnsw")
    assert (record.method, record.ef, record.queries, record.build_s) == ("exact", 0, 0, 0.0)
    assert record.recall == {"10": 1.0, "100": 1.0}
    assert 0.0 < record.search_ms["exact"] < indexing.QUICK_MS
    assert "no graph is grown" in record.reason
    monkeypatch.setattr(indexing, "QUICK_MS", 0.0)
    with pytest.raises(AssertionError, match="a graph is grown"):
        build_index(clustered(300), tmp_path / "one.hnsw")


@pytest.mark.parametrize(
    ("small_ms", "large_ms", "grown"),
    # 2,000 rows are 4 times the 500 of the large one, as those are of the small one; an exact search takes 10 ms.
    [(0.5, 0.5, True), (1.0, 2.0, True), (1.0, 4.0, False), (2.0, 1.0, True), (9.0, 9.0, False), (0.1, 1.6, True)],
)
def test_no_whole_graph_is_grown_where_two_small_ones_say_that_it_would_be_too_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_ms: float, large_ms: float, grown: bool
) -> None:
    took = {125: small_ms, 500: large_ms, 2_000: 1.0}
    sizes: list[int] = []
    grow = hnsw.grow

    def counted(matrix: Matrix, threads: int, size: int = 0) -> object:
        sizes.append(len(matrix))
        assert not size or size == 2_000
        return grow(matrix, threads, size)

    def timed(indexes: dict[str, ReferenceIndex], queries: object) -> dict[str, float]:
        return {name: 10.0 if name == "exact" else took[index.count] for name, index in indexes.items()}

    monkeypatch.setattr(indexing, "SAMPLES", (125, 500))
    monkeypatch.setattr(indexing, "_timed", timed)
    monkeypatch.setattr(hnsw, "grow", counted)
    record = build_index(clustered(2_000), tmp_path / "one.hnsw")
    assert sizes == ([125, 500, 2_000] if grown else [125, 500])
    assert record.method == ("hnsw" if grown else "exact")
    assert (tmp_path / "one.hnsw").exists() == grown
    if not grown:
        assert (record.queries, record.build_s, record.recall) == (0, 0.0, {"10": 1.0, "100": 1.0})
        assert "is expected to take" in record.reason
    assert build_index(clustered(2_000), tmp_path / "one.hnsw", asked="hnsw").method == "hnsw"
    assert sizes[-1] == 2_000, "who asks for a graph gets it"


@pytest.mark.parametrize("count", [1, 2, 17, 300, 1500])
def test_what_was_measured_is_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(indexing, "QUICK_MS", 0.0)
    path = tmp_path / "one.hnsw"
    matrix = clustered(count)
    record = build_index(matrix, path)
    assert (record.count, record.dimensions, record.asked) == (count, 32, "auto")
    assert min(record.recall.values()) >= indexing.RECALL_GOAL
    assert record.queries > 100
    assert set(record.search_ms) == {"exact", "hnsw"}
    assert all(taken > 0 for taken in record.search_ms.values())
    assert "ms by HNSW" in record.reason
    # Whichever was quicker here: the record, the file and what is loaded agree.
    assert path.exists() == (record.method == "hnsw") == (record.ef > 0)
    loaded = load_index(record, path if record.method == "hnsw" else None, matrix)
    assert isinstance(loaded, HnswIndex if record.method == "hnsw" else ExactIndex)


@pytest.mark.parametrize(
    ("graph_ms", "exact_ms", "method"),
    [(0.1, 2.0, "hnsw"), (1.0, WORTH, "hnsw"), (1.0, 1.4, "exact"), (0.2, 0.05, "exact")],
)
def test_a_graph_is_taken_only_where_it_is_worth_it(graph_ms: float, exact_ms: float, method: str) -> None:
    taken, reason = choose("auto", {"hnsw": graph_ms, "exact": exact_ms})
    assert taken == method
    assert f"{graph_ms:.3f} ms by HNSW, {exact_ms:.3f} ms exactly" in reason


@pytest.mark.parametrize("asked", ["exact", "hnsw"])
def test_what_the_operator_asks_for_is_taken(tmp_path: Path, asked: Asked) -> None:
    record = build_index(clustered(300), tmp_path / "one.hnsw", asked=asked)
    assert (record.method, record.asked, record.reason) == (asked, asked, "it was asked for")
    assert (tmp_path / "one.hnsw").exists() == (asked == "hnsw")
    assert min(record.recall.values()) >= indexing.RECALL_GOAL
    assert bool(record.queries) == (asked == "hnsw")


@pytest.mark.parametrize("asked", ["auto", "hnsw"])
def test_where_the_graph_does_not_reach_the_goal_the_search_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Asked
) -> None:
    generator = np.random.default_rng(0)
    isotropic = generator.normal(size=(2500, 256))
    matrix = unit_matrix(isotropic / np.linalg.norm(isotropic, axis=1, keepdims=True))
    monkeypatch.setattr(indexing, "QUICK_MS", 0.0)
    monkeypatch.setattr(indexing, "_BREADTHS", (128,))
    record = build_index(matrix, tmp_path / "one.hnsw", asked=asked)
    assert (record.method, record.ef) == ("exact", 0)
    # The search that is served misses nothing; what the graph missed is said in words.
    assert record.recall == {"10": 1.0, "100": 1.0}
    found = re.fullmatch(r"HNSW finds no more than (0\.\d+) of the true neighbors", record.reason)
    assert found is not None
    assert 0.0 < float(found[1]) < indexing.RECALL_GOAL
    assert not (tmp_path / "one.hnsw").exists()
    searched = load_index(record, None, matrix)
    assert [hit.label for hit in searched.search(matrix[7], 5)] == brute(matrix, matrix[7], 5)


def test_a_graph_grown_in_steps_is_that_grown_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = clustered(1500)
    build_index(matrix, tmp_path / "steps.hnsw", asked="hnsw")
    monkeypatch.setattr(hnsw, "_AT_ONCE", len(matrix))
    build_index(matrix, tmp_path / "once.hnsw", asked="hnsw")
    assert (tmp_path / "steps.hnsw").read_bytes() == (tmp_path / "once.hnsw").read_bytes()


def test_ctrl_c_is_heard_while_a_graph_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[int] = []

    class Index(hnswlib.Index):
        def add_items(self, rows: np.ndarray, *arguments: object, **options: object) -> None:
            added.append(len(rows))
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(hnswlib, "Index", Index)
    try:
        with pytest.raises(KeyboardInterrupt):
            hnsw.grow(clustered(1500), 1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert added == [1000]


def test_the_smallest_breadth_that_reaches_the_goal_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = clustered(1500)
    narrow = build_index(matrix, tmp_path / "one.hnsw", asked="hnsw")
    monkeypatch.setattr(indexing, "_BREADTHS", (narrow.ef * 2, narrow.ef * 4))
    assert build_index(matrix, tmp_path / "two.hnsw", asked="hnsw").ef == narrow.ef * 2


def test_what_lies_farther_off_than_was_measured_is_searched_exactly(tmp_path: Path) -> None:
    matrix = clustered(1500)
    path = tmp_path / "one.hnsw"
    record = build_index(matrix, path, asked="hnsw")
    assert 0.3 < record.least < 0.99
    generator = np.random.default_rng(3)
    away = unit_matrix(np.stack([unit_vector(generator.normal(size=32), 32) for _ in range(50)]))
    nearest = (away @ matrix.T).max(axis=1)
    assert (nearest < record.least).any(), "otherwise nothing is tested"
    # As narrow as can be, the graph itself misses; with a bound that nothing passes, nothing is missed.
    narrow = load_index(replace(record, ef=1, least=-1.0), path, matrix)
    bounded = load_index(replace(record, ef=1), path, matrix)
    truth = [brute(matrix, query, 100) for query in away]

    def missed(index: ReferenceIndex, which: np.ndarray) -> int:
        return sum(
            [hit.label for hit in index.search(away[place], 100)] != truth[place] for place in np.flatnonzero(which)
        )

    assert missed(bounded, nearest < record.least) == 0
    assert missed(narrow, nearest < record.least) > 0


def test_vectors_that_do_not_fit_the_record_are_refused() -> None:
    matrix = clustered(5)
    for count, dimensions in ((4, 32), (5, 31)):
        with pytest.raises(ConfigurationError, match="other embeddings"):
            load_index(IndexRecord("exact", count, dimensions), None, matrix)
    with pytest.raises(ConfigurationError, match="length is not 1"):
        load_index(IndexRecord("exact", 5, 32), None, matrix * 2)


def test_a_record_survives_json() -> None:
    record = IndexRecord("hnsw", 3, 8, 128, {"10": 1.0}, 192, 0.7, {"exact": 1.5, "hnsw": 0.5}, 2.5, "hnsw", "it is")
    assert IndexRecord.from_json(record.to_json()) == record
    for broken in (
        {},
        {"method": "flat", "count": 1, "dimensions": 1},
        {"method": "exact", "count": 0, "dimensions": 1},
    ):
        with pytest.raises(ConfigurationError):
            IndexRecord.from_json(broken)
