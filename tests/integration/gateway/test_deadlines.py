"""What is late, what is cancelled, what is too much."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import grpc
import grpc.aio
import pytest
from mondrian.gateway.v1 import gateway_pb2

from services.gateway import directory, fanout
from tests.fakes.system import System, analyze_request, system
from tests.http2 import answer_of
from tests.integration.gateway.calls import (
    CLIP,
    CRITIQUE,
    DIMENSIONAL,
    LORA,
    SCORES,
    SOON,
    events_of,
)
from tests.integration.refusals import refused


class TestDeadlinesAndCancellation:
    # The deadline is the mode's own here, so that the client's does not race with the answer on a busy machine.
    async def test_combined_answers_in_time_without_the_part_that_is_late(self) -> None:
        async with system(combined_deadline_s=5.0) as running:
            running.critic.gate.clear()
            answer = await running.stub.Analyze(analyze_request())
            (failure,) = answer.failures
            assert (failure.part, failure.status.code) == (CRITIQUE, grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
            assert failure.status.reason == "BACKEND_TIMEOUT"
            assert re.match(r"The critic did not answer within [1-4]\.\d+ s;", failure.status.message)
            assert answer.HasField("references")
            assert answer.HasField("scores")
            await asyncio.wait_for(running.critic.cancelled.wait(), SOON)

    async def test_a_single_mode_says_which_service_was_late(self) -> None:
        async with system(dimensional_deadline_s=2.0) as running:
            running.scorer.gate.clear()
            refusal = await refused(running.stub.Analyze(analyze_request(DIMENSIONAL)))
            assert refusal.code == grpc.StatusCode.DEADLINE_EXCEEDED
            assert "The scorer did not answer" in refusal.sentence

    async def test_without_a_deadline_the_modes_own_applies(self) -> None:
        async with system(clip_deadline_s=200.0, combined_deadline_s=400.0) as running:
            await running.stub.Analyze(analyze_request(CLIP))
            await running.stub.Analyze(analyze_request())
            first, second = running.embedder.time_left
            assert first is not None
            assert second is not None
            assert 100.0 < first < 200.0 < second < 400.0

    async def test_each_part_gets_what_is_left_less_a_margin(self, over_fakes: System) -> None:
        await over_fakes.stub.Analyze(analyze_request(), timeout=30.0)
        for fake in over_fakes.fakes:
            (left,) = fake.time_left
            assert left is not None
            # Timeouts are rounded up on the wire.
            assert 10.0 < left < 29.9

    async def test_a_deadline_in_centuries_means_no_haste(self, over_fakes: System) -> None:
        # What grpc-go sends for the longest duration that Go knows.
        answer = await answer_of(
            int(over_fakes.address.rpartition(":")[2]),
            b"/mondrian.gateway.v1.GatewayService/Analyze",
            analyze_request(CLIP).SerializeToString(),
            ((b"grpc-timeout", b"2562048H"),),
        )
        assert b"grpc-status\x010" in answer
        (left,) = over_fakes.embedder.time_left
        assert left is not None
        assert 3600 < left < 25 * 3600

    async def test_a_grounded_critique_keeps_half_of_the_time(self) -> None:
        async with system(combined_deadline_s=6.0) as running:
            running.scorer.gate.clear()
            answer = await running.stub.Analyze(analyze_request(grounded=True))
            assert [failure.part for failure in answer.failures] == [SCORES]
            (left,) = running.critic.time_left
            assert left is not None
            assert 0.2 < left < 3.0
            assert answer.critique.text

    @pytest.mark.parametrize("mode", [DIMENSIONAL, LORA])
    async def test_asking_who_is_known_ends_with_the_deadline(
        self, over_fakes: System, monkeypatch: pytest.MonkeyPatch, mode: gateway_pb2.Mode.ValueType
    ) -> None:
        monkeypatch.setattr(directory, "_TIMEOUT_S", 2 * SOON)
        await over_fakes.stub.Analyze(analyze_request(CLIP))
        over_fakes.embedder.listing_time_left.clear()
        await refused(over_fakes.stub.Analyze(analyze_request(mode, advisor="anselm"), timeout=SOON))
        (left,) = over_fakes.embedder.listing_time_left
        assert left is not None
        # Timeouts are rounded up on the wire.
        assert left < SOON

    async def test_a_name_that_does_not_come_keeps_no_answer_from_its_deadline(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fanout, "_NAME_GRACE_S", SOON)
        monkeypatch.setattr(directory, "_TIMEOUT_S", SOON)
        async with system(combined_deadline_s=4.0) as running:
            running.embedder.listing.clear()
            running.embedder.gate.clear()
            answer = await running.stub.Analyze(analyze_request(), timeout=SOON / 2)
            assert [failure.status.reason for failure in answer.failures] == ["BACKEND_TIMEOUT"]
            assert "the references of ansel" in answer.summary

    @pytest.mark.parametrize("rpc", ["Analyze", "StreamAnalyze", "AnalyzeBatch"])
    async def test_cancelled_upstream_is_cancelled_downstream(self, over_fakes: System, rpc: str) -> None:
        for fake in over_fakes.fakes:
            fake.gate.clear()
        if rpc == "Analyze":
            call: Any = over_fakes.stub.Analyze(analyze_request(), timeout=SOON)
        elif rpc == "StreamAnalyze":
            call = over_fakes.stub.StreamAnalyze(
                gateway_pb2.StreamAnalyzeRequest(request=analyze_request()), timeout=SOON
            )
        else:
            call = over_fakes.stub.AnalyzeBatch(timeout=SOON)
            await call.write(gateway_pb2.AnalyzeBatchRequest(key="a", request=analyze_request()))
        await asyncio.wait_for(asyncio.gather(*(fake.entered.wait() for fake in over_fakes.fakes)), SOON)
        call.cancel()
        await asyncio.wait_for(asyncio.gather(*(fake.cancelled.wait() for fake in over_fakes.fakes)), SOON)

    async def test_a_reader_who_leaves_in_the_middle_of_a_critique_stops_it(self, over_fakes: System) -> None:
        hold = asyncio.Event()

        async def between(number: int) -> None:
            if number == 3:
                await hold.wait()

        over_fakes.critic.between = between
        call = over_fakes.stub.StreamAnalyze(
            gateway_pb2.StreamAnalyzeRequest(request=analyze_request(LORA)), timeout=SOON
        )
        deltas = 0
        async for event in call:
            deltas += event.HasField("critique_delta")
            if deltas == 3:
                break
        call.cancel()
        await asyncio.wait_for(over_fakes.critic.cancelled.wait(), SOON)


class TestAdmission:
    async def test_one_too_many_is_refused_at_once_and_told_when_to_return(self) -> None:
        async with system(max_in_flight=2) as running:
            running.scorer.gate.clear()
            waiting = [
                asyncio.ensure_future(running.stub.Analyze(analyze_request(DIMENSIONAL), timeout=SOON))
                for _ in range(2)
            ]
            while running.scorer.in_flight < 2:
                await asyncio.wait_for(running.scorer.entered.wait(), SOON)
                running.scorer.entered.clear()
            for call in (
                running.stub.Analyze(analyze_request(CLIP), timeout=SOON),
                events_of(
                    running.stub.StreamAnalyze(
                        gateway_pb2.StreamAnalyzeRequest(request=analyze_request(CLIP)), timeout=SOON
                    )
                ),
            ):
                refusal = await refused(call)
                assert refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert refusal.retry_after_s == 1.0
            assert not running.embedder.requests
            running.scorer.gate.set()
            await asyncio.gather(*waiting)
            # The permits are free again.
            assert (await running.stub.Analyze(analyze_request(CLIP), timeout=SOON)).summary
