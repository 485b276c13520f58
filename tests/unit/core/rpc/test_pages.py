"""Pages cover a listing once, whatever their size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.errors import InvalidArgument
from services.core.rpc.pages import page


@given(st.sets(st.text(max_size=8), max_size=60), st.integers(1, 20))
def test_pages_give_every_item_once_in_order(names: set[str], size: int) -> None:
    items = sorted(names)
    seen: list[str] = []
    token = ""
    while True:
        found, token = page(items, size, token, key=str)
        seen += found
        assert len(found) <= size
        if not token:
            break
    assert seen == items


def test_an_item_that_leaves_between_two_pages_moves_no_other() -> None:
    first, token = page(["a", "b", "c", "d"], 2, "", key=str)
    assert first == ["a", "b"]
    assert page(["a", "c", "d"], 2, token, key=str) == (["c", "d"], "")


def test_sizes_are_defaulted_and_coerced() -> None:
    items = [f"{number:04}" for number in range(300)]
    assert len(page(items, 0, "", key=str)[0]) == 50
    assert len(page(items, 1000, "", key=str)[0]) == 200


@pytest.mark.parametrize(
    ("size", "token", "field"), [(-1, "", "page_size"), (1, "nonsense", "page_token"), (1, "é", "page_token")]
)
def test_what_cannot_be_meant_is_refused_by_field(size: int, token: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        page(["a"], size, token, key=str)
    assert refused.value.field == field
