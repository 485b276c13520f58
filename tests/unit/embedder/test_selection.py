"""Filters and diversity: what fits is found exactly, and one picture is not shown three times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.core.errors import InvalidArgument
from services.embedder.catalogue import Entry
from services.embedder.encoder import Matrix
from services.embedder.index import unit_matrix
from services.embedder.selection import Filter, diverse


def entry(year: int | None = None, *tags: str) -> Entry:
    return Entry("0" * 64, "a.jpg", "a", year=year, tags=tags)


@pytest.mark.parametrize(
    ("only", "candidate", "fits"),
    [
        (Filter.of(None, None, ()), entry(), True),
        (Filter.of(1940, None, ()), entry(1940), True),
        (Filter.of(1940, None, ()), entry(1939), False),
        (Filter.of(1940, None, ()), entry(None), False),
        (Filter.of(None, 1940, ()), entry(1941), False),
        (Filter.of(1930, 1940, ()), entry(1935), True),
        (Filter.of(None, None, ["Snow"]), entry(None, "river", "SNOW"), True),
        (Filter.of(None, None, [" snow ", "fog"]), entry(None, "fog"), True),
        (Filter.of(None, None, ["snow"]), entry(None, "snowfall"), False),
        (Filter.of(None, None, ["STRASSE"]), entry(None, "straße"), True),
        (Filter.of(1900, None, ["snow"]), entry(1950, "river"), False),
        (Filter.of(1900, None, ["snow"]), entry(1850, "snow"), False),
    ],
)
def test_a_reference_fits_when_every_condition_holds(only: Filter, candidate: Entry, fits: bool) -> None:
    assert only.fits(candidate) is fits


@pytest.mark.parametrize(
    ("year_from", "year_to", "tags", "field"),
    [
        (1799, None, (), "filter.year_from"),
        (None, 2201, (), "filter.year_to"),
        (1950, 1940, (), "filter.year_from"),
        (None, None, ["x"] * 21, "filter.tags"),
    ],
)
def test_a_filter_out_of_range_names_its_field(
    year_from: int | None, year_to: int | None, tags: list[str], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Filter.of(year_from, year_to, tags)
    assert refused.value.field == field


def near(*angles: float) -> Matrix:
    """Returns unit vectors in a plane, by their degrees from the query at 0."""
    radians = np.deg2rad(angles)
    return unit_matrix(np.stack([np.cos(radians), np.sin(radians)], axis=1))


def test_one_picture_three_times_is_shown_once() -> None:
    # Three almost equal ones, then one to the other side, then one far away.
    vectors = near(10, 11, 12, -30, 80)
    similarities = (vectors @ near(0)[0]).tolist()
    assert diverse(similarities, vectors, 3, 0.0) == [0, 1, 2]
    assert diverse(similarities, vectors, 2, 0.4) == [0, 3]
    assert diverse(similarities, vectors, 3, 0.7) == [0, 3, 4]
    assert diverse(similarities, vectors, 2, 1.0) == [0, 4]


def test_fewer_candidates_than_wanted_are_all_taken() -> None:
    vectors = near(10, 20)
    assert diverse([0.9, 0.8], vectors, 5, 0.5) == [0, 1]
    assert diverse([], np.empty((0, 2), np.float32), 5, 0.5) == []


@given(st.lists(st.floats(-180, 180), min_size=1, max_size=12), st.integers(1, 12), st.floats(0, 1))
@settings(deadline=None)
def test_the_nearest_is_always_taken_and_none_twice(angles: list[float], count: int, diversity: float) -> None:
    vectors = near(*angles)
    similarities = vectors @ near(0)[0]
    order = np.argsort(-similarities, kind="stable")
    places = diverse(similarities[order].tolist(), vectors[order], count, diversity)
    assert places[0] == 0
    assert len(set(places)) == len(places) == min(count, len(angles))
    assert places == sorted(places)
    if diversity == 0:
        assert places == list(range(len(places)))
