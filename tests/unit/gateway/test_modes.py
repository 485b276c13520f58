"""Which parts a mode names, and what a request must look like."""

from __future__ import annotations

from typing import Any

import pytest
from mondrian.critic.v1 import critic_pb2
from mondrian.gateway.v1 import gateway_pb2

from services.core.errors import InvalidArgument, InvalidImage
from services.gateway.modes import CRITIQUE, PARTS, READING_ORDER, REFERENCES, SCORES, validate
from tests.fakes.system import analyze_request


def test_every_mode_of_the_contract_names_its_parts() -> None:
    assert set(PARTS) == {mode for mode in gateway_pb2.Mode.values() if mode}
    assert set(PARTS[gateway_pb2.MODE_COMBINED]) == set(READING_ORDER) == {REFERENCES, CRITIQUE, SCORES}
    single = [PARTS[mode] for mode in PARTS if mode != gateway_pb2.MODE_COMBINED]
    assert sorted(single) == [(REFERENCES,), (CRITIQUE,), (SCORES,)]


@pytest.mark.parametrize("mode", PARTS)
def test_a_plain_request_is_right_in_every_mode(mode: gateway_pb2.Mode.ValueType) -> None:
    validate(analyze_request(mode))


@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": 0},
        {"top_k": 100},
        {"instruction": "é" * 1000},
        {"advisor": "a" * 64},
        {"advisor": "ansel-adams-2"},
        {"generation_config": critic_pb2.GenerationConfig(max_tokens=1, temperature=0, top_p=1, repetition_penalty=1)},
        {"generation_config": critic_pb2.GenerationConfig(temperature=2, top_p=0.01, repetition_penalty=2)},
    ],
)
def test_the_ends_of_the_ranges_are_inside(fields: dict[str, Any]) -> None:
    validate(analyze_request(**fields))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"top_k": -1}, "top_k"),
        ({"top_k": 101}, "top_k"),
        ({"instruction": "é" * 1001}, "instruction"),
        ({"advisor": "a" * 65}, "advisor"),
        ({"advisor": "Ansel"}, "advisor"),
        ({"advisor": "ansel\n"}, "advisor"),
        ({"advisor": ""}, "advisor"),
        ({"mode": 99}, "mode"),
        ({"generation_config": critic_pb2.GenerationConfig(max_tokens=0)}, "generation_config.max_tokens"),
        ({"generation_config": critic_pb2.GenerationConfig(temperature=2.1)}, "generation_config.temperature"),
        ({"generation_config": critic_pb2.GenerationConfig(temperature=float("nan"))}, "generation_config.temperature"),
        ({"generation_config": critic_pb2.GenerationConfig(top_p=0)}, "generation_config.top_p"),
        (
            {"generation_config": critic_pb2.GenerationConfig(repetition_penalty=0.9)},
            "generation_config.repetition_penalty",
        ),
    ],
)
def test_what_is_outside_is_refused_and_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        validate(analyze_request(**fields))
    assert caught.value.field == field
    assert caught.value.message.endswith(".")


def test_an_empty_photograph_is_refused_as_such() -> None:
    with pytest.raises(InvalidImage) as caught:
        validate(analyze_request(image=None))
    assert caught.value.reason == "IMAGE_EMPTY"
