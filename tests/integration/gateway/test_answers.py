"""Every mode, and what is refused before any service is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from mondrian.critic.v1 import critic_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.types.v1 import types_pb2

from services.core.errors import (
    DeviceMemory,
)
from tests.fakes.backends import PHOTOGRAPH
from tests.fakes.system import System, analyze_request
from tests.integration.gateway.calls import (
    CRITIQUE,
    LORA,
    PARTS_OF,
    REFERENCES,
    SCORES,
    SOON,
    events_of,
)
from tests.integration.refusals import refused


class TestModes:
    @pytest.mark.parametrize("mode", PARTS_OF)
    async def test_a_mode_answers_with_its_parts_and_asks_no_other_service(
        self, over_fakes: System, mode: gateway_pb2.Mode.ValueType
    ) -> None:
        answer = await over_fakes.stub.Analyze(analyze_request(mode), timeout=SOON)
        wanted = PARTS_OF[mode]
        assert answer.HasField("references") == (REFERENCES in wanted)
        assert answer.HasField("critique") == (CRITIQUE in wanted)
        assert answer.HasField("scores") == (SCORES in wanted)
        assert not answer.failures
        assert [timing.part for timing in answer.part_timings] == wanted
        assert all(0 < timing.elapsed_ms <= answer.total_ms for timing in answer.part_timings)
        assert {narration.part for narration in answer.narrations} == set(wanted)
        assert all(narration.sentences for narration in answer.narrations)
        assert answer.summary
        assert [len(fake.requests) for fake in over_fakes.fakes] == [
            int(part in wanted) for part in (REFERENCES, CRITIQUE, SCORES)
        ]

    async def test_each_part_gets_the_photograph_and_its_own_options(self, over_fakes: System) -> None:
        config = critic_pb2.GenerationConfig(max_tokens=7, temperature=0.5, seed=3)
        await over_fakes.stub.Analyze(
            analyze_request(
                top_k=2, include_thumbnails=True, generation_config=config, instruction="Is the sky too bright?"
            ),
            timeout=SOON,
        )
        (search,) = over_fakes.embedder.requests
        (critique,) = over_fakes.critic.requests
        (score,) = over_fakes.scorer.requests
        assert search.image.content == critique.image.content == score.image.content == PHOTOGRAPH
        assert search.advisor == critique.advisor == score.advisor == "ansel"
        assert (search.top_k, search.include_thumbnails) == (2, True)
        assert (critique.instruction, critique.generation_config) == ("Is the sky too bright?", config)
        assert not critique.HasField("grounding")

    async def test_unset_generation_options_stay_unset(self, over_fakes: System) -> None:
        await over_fakes.stub.Analyze(analyze_request(LORA), timeout=SOON)
        assert not over_fakes.critic.requests[0].HasField("generation_config")

    @pytest.mark.parametrize("rpc", ["Analyze", "StreamAnalyze"])
    async def test_all_parts_are_in_flight_at_once(self, over_fakes: System, rpc: str) -> None:
        for fake in over_fakes.fakes:
            fake.gate.clear()
        if rpc == "Analyze":
            call: Any = over_fakes.stub.Analyze(analyze_request(), timeout=SOON)
            running = asyncio.ensure_future(call)
        else:
            call = over_fakes.stub.StreamAnalyze(
                gateway_pb2.StreamAnalyzeRequest(request=analyze_request()), timeout=SOON
            )
            running = asyncio.ensure_future(events_of(call))
        # Nobody may leave before all three are in: were the parts run in turn, this would never come.
        await asyncio.wait_for(asyncio.gather(*(fake.entered.wait() for fake in over_fakes.fakes)), SOON)
        assert [fake.in_flight for fake in over_fakes.fakes] == [1, 1, 1]
        for fake in over_fakes.fakes:
            fake.gate.set()
        assert await running

    async def test_a_grounded_critique_is_built_on_the_other_parts(self, over_fakes: System) -> None:
        over_fakes.scorer.gate.clear()
        call = over_fakes.stub.Analyze(analyze_request(grounded=True, include_thumbnails=True, top_k=3), timeout=SOON)
        running = asyncio.ensure_future(call)
        await asyncio.wait_for(
            asyncio.gather(over_fakes.scorer.entered.wait(), over_fakes.embedder.entered.wait()), SOON
        )
        assert not over_fakes.critic.requests
        over_fakes.scorer.gate.set()
        answer = await running
        grounding = over_fakes.critic.requests[0].grounding
        assert [found.title for found in grounding.references] == [
            neighbor.reference.title for neighbor in answer.references.neighbors
        ]
        assert not any(found.thumbnail_jpeg for found in grounding.references)
        assert all(neighbor.reference.thumbnail_jpeg for neighbor in answer.references.neighbors)
        assert list(grounding.findings) == [f"Evidence {number}." for number in range(1, 9)]
        assert answer.critique.text == over_fakes.critic.text

    async def test_a_grounded_critique_goes_on_with_what_there_is(self, over_fakes: System) -> None:
        over_fakes.scorer.failure = DeviceMemory("The device is full.")
        answer = await over_fakes.stub.Analyze(analyze_request(grounded=True), timeout=SOON)
        grounding = over_fakes.critic.requests[0].grounding
        assert len(grounding.references) == 3
        assert not grounding.findings
        assert [failure.part for failure in answer.failures] == [SCORES]

    async def test_the_request_id_reaches_every_service(self, over_fakes: System) -> None:
        await over_fakes.stub.Analyze(analyze_request(), timeout=SOON, metadata=(("x-request-id", "trace-7"),))
        assert [fake.request_ids for fake in over_fakes.fakes] == [["trace-7"]] * 3


class TestWhatIsRefusedBeforeAnyServiceIsAsked:
    @pytest.mark.parametrize(
        ("request_", "field", "reason"),
        [
            (analyze_request(gateway_pb2.MODE_UNSPECIFIED), "mode", "INVALID_ARGUMENT"),
            (analyze_request(image=types_pb2.Image()), "image.content", "IMAGE_EMPTY"),
            (analyze_request(image=None), "image.content", "IMAGE_EMPTY"),
            (analyze_request(advisor=""), "advisor", "INVALID_ARGUMENT"),
            (analyze_request(advisor="../etc"), "advisor", "INVALID_ARGUMENT"),
            (analyze_request(top_k=101), "top_k", "INVALID_ARGUMENT"),
            (analyze_request(top_k=-1), "top_k", "INVALID_ARGUMENT"),
            (analyze_request(instruction="x" * 1001), "instruction", "INVALID_ARGUMENT"),
            (
                analyze_request(generation_config=critic_pb2.GenerationConfig(temperature=float("nan"))),
                "generation_config.temperature",
                "INVALID_ARGUMENT",
            ),
        ],
    )
    async def test_a_wrong_request(
        self, over_fakes: System, request_: gateway_pb2.AnalyzeRequest, field: str, reason: str
    ) -> None:
        refusal = await refused(over_fakes.stub.Analyze(request_, timeout=SOON))
        assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
        assert (refusal.field, refusal.reason) == (field, reason)
        stream = over_fakes.stub.StreamAnalyze(gateway_pb2.StreamAnalyzeRequest(request=request_), timeout=SOON)
        streamed = await refused(events_of(stream))
        assert (streamed.sentence, streamed.field) == (refusal.sentence, f"request.{field}")
        assert [fake.requests for fake in over_fakes.fakes] == [[], [], []]
