"""Filters and diversity: what fits is found exactly, and one picture is not shown three times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.core.errors import InvalidArgument
from services.embedder.encoder import Matrix
from services.embedder.index import unit_matrix
from services.embedder.selection import Facets, Filter, diverse


@pytest.mark.parametrize(
    ("only", "year", "tags", "fits"),
    [
        (Filter.of(None, None, ()), None, (), True),
        (Filter.of(1940, None, ()), 1940, (), True),
        (Filter.of(1940, None, ()), 1939, (), False),
        (Filter.of(1940, None, ()), None, (), False),
        (Filter.of(None, 1940, ()), 1941, (), False),
        (Filter.of(None, 1940, ()), None, (), False),
        (Filter.of(1930, 1940, ()), 1935, (), True),
        (Filter.of(None, None, ["Snow"]), None, ("river", "SNOW"), True),
        (Filter.of(None, None, [" snow ", "fog"]), None, ("fog",), True),
        (Filter.of(None, None, ["snow"]), None, ("snowfall",), False),
        (Filter.of(None, None, ["STRASSE"]), None, ("straße",), True),
        (Filter.of(1900, None, ["snow"]), 1950, ("river",), False),
        (Filter.of(1900, None, ["snow"]), 1850, ("snow",), False),
    ],
)
def test_a_reference_fits_when_every_condition_holds(
    only: Filter, year: int | None, tags: tuple[str, ...], fits: bool
) -> None:
    assert Facets([(year, tags)]).fitting(only).tolist() == [0] * fits


TAGS = st.lists(st.sampled_from(("snow", "Snow", "fog", "river", "")), max_size=3)
YEARS = st.none() | st.integers(1800, 1806)


@given(st.lists(st.tuples(YEARS, TAGS), max_size=12), YEARS, YEARS, TAGS)
@settings(deadline=None)
def test_the_labels_are_those_of_the_references_that_fit(
    references: list[tuple[int | None, list[str]]], first: int | None, last: int | None, tags: list[str]
) -> None:
    if first is not None and last is not None and first > last:
        first, last = last, first
    only = Filter.of(first, last, tags)

    def fits(year: int | None, carried: list[str]) -> bool:
        in_years = (first is None or (year is not None and year >= first)) and (
            last is None or (year is not None and year <= last)
        )
        return in_years and (not tags or bool({one.casefold() for one in carried} & {one.casefold() for one in tags}))

    found = Facets(references).fitting(only)
    assert found.dtype == np.int64
    assert found.tolist() == [label for label, one in enumerate(references) if fits(*one)]


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
