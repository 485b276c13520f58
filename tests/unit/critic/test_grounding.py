"""A critique names only the references that it was given, or is counted."""

from __future__ import annotations

import pytest

from services.critic.grounding import invented_titles

GIVEN = ["Moonrise, Hernandez", "Tetons and the  Snake River"]


@pytest.mark.parametrize(
    ("critique", "invented"),
    [
        ("The light is calm.", []),
        ("As in “Moonrise, Hernandez”, the sky is dark.", []),
        ('Your river bends as in "tetons and the snake river."', []),
        ('Your river bends as in "Tetons and the Snake River," which you know.', []),
        ('Compare "Moonrise".', []),
        ('Compare "Clearing Winter Storm" and «Clearing Winter Storm».', ["Clearing Winter Storm"]),
        ('What you call "soft" is not sharp.', []),
        ('He said "Wait for the Cloud".', ["Wait for the Cloud"]),
    ],
)
def test_titles_that_were_not_given_are_found(critique: str, invented: list[str]) -> None:
    assert invented_titles(critique, GIVEN) == invented


def test_without_references_every_title_is_invented() -> None:
    assert invented_titles("See “Moonrise, Hernandez” and “Dune 5”.", []) == ["Moonrise, Hernandez", "Dune 5"]
