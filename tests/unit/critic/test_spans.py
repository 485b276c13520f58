"""Rows of about the same length stay side by side, and attend together where that spares reading."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from services.critic.spans import SIZE, moves, spans

lengths = st.lists(st.integers(1, 4096), min_size=1, max_size=40)


@given(lengths=lengths, place_bytes=st.integers(1, 10_000))
def test_spans_cover_every_row_once_and_reach_to_its_end(lengths: list[int], place_bytes: int) -> None:
    found = spans(lengths, place_bytes)
    assert [row for span in found for row in range(span.start, span.stop)] == list(range(len(lengths)))
    assert all(span.length == max(lengths[span.start : span.stop]) for span in found)


def test_rows_attend_apart_only_where_that_spares_much() -> None:
    lengths = [900] * SIZE + [100] * SIZE
    assert [(span.start, span.stop, span.length) for span in spans(lengths, 1024)] == [
        (0, SIZE, 900),
        (SIZE, 2 * SIZE, 100),
    ]
    assert len(spans(lengths, 8)) == 1
    assert len(spans([900] * 2 * SIZE, 1024)) == 1
    assert len(spans(lengths[: SIZE + 1], 1024)) == 2


@given(lengths=lengths, data=st.data())
def test_a_gap_is_closed_without_losing_a_row(lengths: list[int], data: st.DataObject) -> None:
    hole = data.draw(st.integers(0, len(lengths) - 1))
    rows = list(range(len(lengths)))
    for source, target in moves(lengths, hole):
        rows[target] = rows[source]
    assert sorted(rows[:-1]) == [row for row in range(len(lengths)) if row != hole]


def test_what_comes_and_goes_stays_ordered_by_blocks() -> None:
    draw = random.Random(0)
    rows = [160 - number for number in range(32)]
    for _ in range(500):
        hole = draw.randrange(len(rows))
        for source, target in moves(rows, hole):
            rows[target] = rows[source]
        rows[-1] = 100  # the next prompt
        rows = [length + 3 for length in rows]
        blocks = [rows[start : start + SIZE] for start in range(0, len(rows), SIZE)]
        assert all(min(first) >= max(second) for first, second in itertools.pairwise(blocks))
