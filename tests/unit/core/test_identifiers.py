"""An advisor's id in a request: empty, an id, or refused by name."""

from __future__ import annotations

import pytest

from services.core.errors import InvalidArgument
from services.core.identifiers import asked_advisor


@pytest.mark.parametrize("advisor", ["ansel", "a", "a" * 64, "ansel-adams-2", "-"])
@pytest.mark.parametrize("required", [True, False])
def test_an_id_is_returned_as_it_is(advisor: str, required: bool) -> None:
    assert asked_advisor(advisor, required=required) == advisor


@pytest.mark.parametrize(
    "advisor", ["a" * 65, "Ansel", "ansel\n", " ansel", "../etc", "ansel/../okeefe", "ansel\0", "añsel", "٣", "a_b"]
)
@pytest.mark.parametrize("required", [True, False])
def test_what_can_be_no_id_is_refused(advisor: str, required: bool) -> None:
    with pytest.raises(InvalidArgument) as refused:
        asked_advisor(advisor, required=required)
    assert refused.value.field == "advisor"
    assert advisor not in refused.value.message


def test_the_empty_id_is_one_only_where_none_is_required() -> None:
    assert asked_advisor("", required=False) == ""
    with pytest.raises(InvalidArgument, match="Name an advisor") as refused:
        asked_advisor("", required=True)
    assert refused.value.field == "advisor"
