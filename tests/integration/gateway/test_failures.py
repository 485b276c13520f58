"""What fails, and what the caller sees of it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from mondrian.critic.v1 import critic_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.types.v1 import types_pb2
from prometheus_client import REGISTRY

from services.core.errors import (
    AdvisorNotFound,
    DeviceMemory,
    NoRelease,
    Overloaded,
)
from tests.fakes.system import System, analyze_request
from tests.integration.gateway.calls import (
    CLIP,
    COMBINED,
    DIMENSIONAL,
    LORA,
    PARTS_OF,
    SOON,
)
from tests.integration.refusals import refused


class TestFailures:
    @pytest.mark.parametrize("part", PARTS_OF[COMBINED])
    async def test_combined_goes_on_without_a_part_and_says_which_and_why(
        self, over_fakes: System, part: gateway_pb2.Part.ValueType
    ) -> None:
        fake = over_fakes.fakes[part - 1]
        fake.failure = DeviceMemory("The device ran out of memory; send a smaller photograph.")
        answer = await over_fakes.stub.Analyze(analyze_request(), timeout=SOON)
        (failure,) = answer.failures
        assert failure.part == part
        assert failure.status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert failure.status.reason == "DEVICE_MEMORY"
        assert [answer.HasField(name) for name in ("references", "critique", "scores")] == [
            other != part for other in PARTS_OF[COMBINED]
        ]
        assert len(answer.narrations) == len(answer.part_timings) == 3
        assert "the device ran out of memory" in answer.summary

    @pytest.mark.parametrize("mode", [CLIP, LORA, DIMENSIONAL])
    async def test_a_single_mode_ends_with_the_parts_own_status(
        self, over_fakes: System, mode: gateway_pb2.Mode.ValueType
    ) -> None:
        fake = over_fakes.fakes[PARTS_OF[mode][0] - 1]
        fake.failure = Overloaded("The queue is full.", retry_after_s=1.5)
        refusal = await refused(over_fakes.stub.Analyze(analyze_request(mode), timeout=SOON))
        assert (refusal.code, refusal.sentence) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "The queue is full.")
        assert refusal.reason == "OVERLOADED"
        assert refusal.retry_after_s == 1.5
        # An overload is never multiplied by repeating what was refused.
        assert len(fake.requests) == 1

    async def test_combined_fails_when_every_part_does_with_the_first_parts_status(self, over_fakes: System) -> None:
        over_fakes.embedder.failure = NoRelease("Nothing has been pre-computed yet: run `mondrian precompute`.")
        over_fakes.scorer.failure = DeviceMemory("The device is full.")
        over_fakes.critic.failure = Overloaded("The queue is full.")
        refusal = await refused(over_fakes.stub.Analyze(analyze_request(), timeout=SOON))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_RELEASE")

    async def test_a_photograph_that_nobody_can_read_is_reported_once(self, over_fakes: System) -> None:
        request = analyze_request(image=types_pb2.Image(content=b"not a photograph"))
        refusal = await refused(over_fakes.stub.Analyze(request, timeout=SOON))
        assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.reason == "IMAGE_UNDECODABLE"
        assert refusal.field == "image.content"

    async def test_a_fault_of_a_service_keeps_its_request_id_and_hides_its_cause(self, over_fakes: System) -> None:
        over_fakes.scorer.failure = ZeroDivisionError("secret")
        refusal = await refused(
            over_fakes.stub.Analyze(analyze_request(DIMENSIONAL), timeout=SOON, metadata=(("x-request-id", "trace-8"),))
        )
        assert refusal.code == grpc.StatusCode.INTERNAL
        assert "trace-8" in refusal.sentence
        assert "secret" not in refusal.sentence


class TestUnknownAdvisors:
    @pytest.mark.parametrize("mode", PARTS_OF)
    async def test_an_advisor_that_exists_nowhere_is_not_found_in_every_mode(
        self, over_fakes: System, mode: gateway_pb2.Mode.ValueType
    ) -> None:
        refusal = await refused(over_fakes.stub.Analyze(analyze_request(mode, advisor="anselm"), timeout=SOON))
        assert refusal.code == grpc.StatusCode.NOT_FOUND
        assert refusal.reason == "ADVISOR_NOT_FOUND"
        assert refusal.sentence == "There is no advisor 'anselm'. Known: ansel, okeefe."

    async def test_a_stream_of_an_unknown_advisor_ends_before_its_first_word(self, over_fakes: System) -> None:
        request = gateway_pb2.StreamAnalyzeRequest(request=analyze_request(LORA, advisor="anselm"))
        call = over_fakes.stub.StreamAnalyze(request, timeout=SOON)
        seen: list[Any] = []

        async def read() -> None:
            async for event in call:
                seen.append(event)

        refusal = await refused(read())
        assert (refusal.code, seen) == (grpc.StatusCode.NOT_FOUND, [])

    async def test_nobody_waits_for_the_critique_of_an_unknown_advisor(self, over_fakes: System) -> None:
        for fake in over_fakes.fakes:
            fake.gate.clear()
        call = over_fakes.stub.Analyze(analyze_request(advisor="anselm"), timeout=SOON)
        await asyncio.wait_for(over_fakes.critic.entered.wait(), SOON)
        over_fakes.embedder.gate.set()
        over_fakes.scorer.gate.set()
        refusal = await refused(call)
        assert refusal.code == grpc.StatusCode.NOT_FOUND
        await asyncio.wait_for(over_fakes.critic.cancelled.wait(), SOON)

    async def test_an_advisor_without_an_adapter_is_answered_by_the_base_model(self, over_fakes: System) -> None:
        del over_fakes.critic.adapters["ansel"]
        answer = await over_fakes.stub.Analyze(analyze_request(LORA), timeout=SOON)
        assert answer.critique.authorship.fell_back
        assert "The base model wrote the critique" in answer.summary

    async def test_an_advisor_without_references_still_gets_the_critique(self, over_fakes: System) -> None:
        over_fakes.critic.adapters["weston"] = critic_pb2.ADAPTER_STATE_READY
        answer = await over_fakes.stub.Analyze(analyze_request(advisor="weston"), timeout=SOON)
        assert answer.critique.text
        assert [failure.status.reason for failure in answer.failures] == ["ADVISOR_NOT_FOUND"] * 2

    async def test_an_advisor_without_a_profile_gets_the_scorers_own_advice(self, over_fakes: System) -> None:
        over_fakes.scorer.profiles.clear()
        refusal = await refused(over_fakes.stub.Analyze(analyze_request(DIMENSIONAL), timeout=SOON))
        assert refusal.sentence == "There is no profile of 'ansel': pre-compute it."

    async def test_while_the_embedder_cannot_tell_the_base_models_answer_stands(self, over_fakes: System) -> None:
        over_fakes.embedder.failure = NoRelease("Nothing has been pre-computed yet.")
        answer = await over_fakes.stub.Analyze(analyze_request(LORA, advisor="anselm"), timeout=SOON)
        assert answer.critique.authorship.fell_back
        over_fakes.scorer.failure = AdvisorNotFound("There is no profile of 'anselm'.")
        answer = await over_fakes.stub.Analyze(analyze_request(advisor="anselm"), timeout=SOON)
        assert [failure.status.reason for failure in answer.failures] == ["NO_RELEASE", "ADVISOR_NOT_FOUND"]


class TestMetrics:
    async def test_modes_and_parts_are_timed_by_what_became_of_them(self, over_fakes: System) -> None:
        def count(name: str, **labels: str) -> float:
            return REGISTRY.get_sample_value(f"mondrian_gateway_{name}_seconds_count", labels) or 0.0

        def counts() -> list[float]:
            return [
                count("mode", mode="combined", outcome="whole"),
                count("mode", mode="combined", outcome="partial"),
                count("mode", mode="dimensional", outcome="failed"),
                count("part", part="embedder", code="OK"),
                count("part", part="scorer", code="RESOURCE_EXHAUSTED"),
            ]

        before = counts()
        await over_fakes.stub.Analyze(analyze_request(), timeout=SOON)
        over_fakes.scorer.failure = DeviceMemory("The device is full.")
        await over_fakes.stub.Analyze(analyze_request(), timeout=SOON)
        await refused(over_fakes.stub.Analyze(analyze_request(DIMENSIONAL), timeout=SOON))
        assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 1, 1, 2, 2]
