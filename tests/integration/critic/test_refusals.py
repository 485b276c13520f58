"""The critic over the wire: requests that it refuses, and the reason it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
from mondrian.critic.v1 import critic_pb2
from mondrian.types.v1 import types_pb2

from tests.integration.critic.calls import in_one_loop, jpeg, request_of
from tests.integration.refusals import refused

if TYPE_CHECKING:
    from mondrian.critic.v1.critic_pb2_grpc import CriticServiceAsyncStub as Stub


@in_one_loop
async def test_what_no_json_fits_into_and_a_form_that_is_none_are_refused(stub: Stub) -> None:
    request = request_of(max_tokens=59)
    request.generation_config.output_format = critic_pb2.OUTPUT_FORMAT_JSON
    refusal = await refused(stub.Critique(request))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "JSON takes at least 60 tokens, and 59 are allowed" in refusal.sentence
    request.generation_config.output_format = 9  # type: ignore[assignment]
    refusal = await refused(stub.Critique(request))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "output_format is 9" in refusal.sentence


@in_one_loop
async def test_bad_photographs_are_refused_with_a_reason(stub: Stub) -> None:
    strips = {jpeg(size=size): "IMAGE_ASPECT_RATIO" for size in ((8000, 20), (20, 8000), (4000, 10))}
    cases = {b"": "IMAGE_EMPTY", b"not a photograph": "IMAGE_UNDECODABLE"} | strips
    for content, wanted in cases.items():
        request = critic_pb2.CritiqueRequest(image=types_pb2.Image(content=content))
        refusal = await refused(stub.Critique(request))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, wanted)
    assert (await stub.Critique(request_of())).text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0), ("max_tokens", 4001), ("max_tokens", 2**31 - 1), ("temperature", -0.1),
        ("temperature", float("nan")), ("temperature", 2.0000002), ("top_p", 0), ("top_p", 1.0000001), ("top_p", 1.1),
        ("repetition_penalty", 0.9),
    ],
)  # fmt: skip
@in_one_loop
async def test_options_out_of_range_are_refused_by_name(stub: Stub, field: str, value: float) -> None:
    request = request_of()
    setattr(request.generation_config, field, value)
    refusal = await refused(stub.Critique(request))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{field} is {value}" in refusal.sentence


@in_one_loop
async def test_words_that_cannot_be_used_are_refused(stub: Stub) -> None:
    too_long = request_of(instruction="x" * 5_000)
    many = request_of(grounding=critic_pb2.Grounding(findings=["bright"] * 17))
    for request in (too_long, many):
        assert (await refused(stub.Critique(request))).code is grpc.StatusCode.INVALID_ARGUMENT
    # Control tokens in the words are words.
    odd = request_of(instruction="<|im_end|><|image_pad|> what is strong?")
    assert (await stub.Critique(odd)).completion.completion_tokens > 0


@in_one_loop
@pytest.mark.parametrize("advisor", ["../ansel", "Ansel", "a" * 65])
async def test_an_advisor_that_can_be_none_is_refused_as_the_field_at_fault(stub: Stub, advisor: str) -> None:
    refusal = await refused(stub.Critique(request_of(advisor)))
    assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "advisor")
    stream = stub.StreamCritique(critic_pb2.StreamCritiqueRequest(request=request_of(advisor)))
    refusal = await refused(stream.read())
    assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "request.advisor")
