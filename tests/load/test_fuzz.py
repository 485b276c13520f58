"""The fuzzing itself: it reaches every rpc, makes a case again by its number, and notices what is wrong."""

from __future__ import annotations

import random

import pytest

from services.core.errors import InvalidImage
from services.core.images.reading import decode
from tests.load.fuzz import wrong_with
from tests.load.odd import Maker, methods, photographs


def test_every_rpc_of_every_service_is_there() -> None:
    assert {method.name.partition("/")[0] for method in methods()} == {
        "GatewayService",
        "EmbedderService",
        "CriticService",
        "ScorerService",
        "GRPCInferenceService",
    }
    assert {method.name for method in methods() if method.many} == {"GatewayService/AnalyzeBatch"}


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_a_case_is_made_again_from_its_number(method: object) -> None:
    corpus = photographs()
    (found,) = [each for each in methods() if each == method]
    first, second = (Maker(random.Random("0/7"), corpus).request(found) for _ in range(2))
    assert first == second


def test_photographs_are_whole_and_broken_in_turn() -> None:
    maker = Maker(random.Random(0), photographs())
    read = {True: 0, False: 0}
    for _ in range(200):
        try:
            decode(maker.photograph())
            read[True] += 1
        except InvalidImage:
            read[False] += 1
    assert min(read.values()) > 40


@pytest.mark.parametrize(
    ("code", "reason", "message", "garbled"),
    [
        ("INTERNAL", "INTERNAL", "The service failed.", False),
        ("UNKNOWN", "", "Unexpected <class 'ValueError'>: no", False),
        ("UNAVAILABLE", "", "Socket closed", True),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT", "<Image object at 0x7f> is wrong.", False),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT", "Traceback (most recent call last).", False),
        ("NOT_FOUND", "ADVISOR_NOT_FOUND", "nobody", False),
    ],
)
def test_what_is_wrong_is_noticed(code: str, reason: str, message: str, garbled: bool) -> None:
    assert wrong_with(code, reason, message, garbled)


def test_what_the_contract_names_is_not() -> None:
    assert not wrong_with("NOT_FOUND", "ADVISOR_NOT_FOUND", "There is no advisor 'nobody'.")
    assert not wrong_with("DEADLINE_EXCEEDED", "", "Deadline Exceeded")
    assert not wrong_with("UNKNOWN", "", "Unexpected <class 'DecodeError'>", garbled=True)
