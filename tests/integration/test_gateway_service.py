"""The gateway over fake services: every mode, what fails, what is cancelled, what is bounded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.types.v1 import types_pb2

from services.core.errors import (
    AdvisorNotFound,
    DeviceMemory,
    InvalidArgument,
    NoRelease,
    Overloaded,
    reason_of,
    rpc_status_of,
)
from services.gateway.settings import GatewaySettings
from tests.fakes.backends import PHOTOGRAPH, FakeCritic, FakeEmbedder, FakeScorer, reference
from tests.fakes.system import System, analyze_request, gateway_at, served, system

CLIP, LORA = gateway_pb2.MODE_CLIP, gateway_pb2.MODE_LORA
DIMENSIONAL, COMBINED = gateway_pb2.MODE_DIMENSIONAL, gateway_pb2.MODE_COMBINED
REFERENCES, CRITIQUE, SCORES = gateway_pb2.PART_REFERENCES, gateway_pb2.PART_CRITIQUE, gateway_pb2.PART_SCORES
# Long enough for a loaded machine; nothing here waits for it to pass.
SOON = 20.0
PARTS_OF = {
    CLIP: [REFERENCES],
    LORA: [CRITIQUE],
    DIMENSIONAL: [SCORES],
    COMBINED: [REFERENCES, CRITIQUE, SCORES],
}


@pytest.fixture
async def over_fakes() -> AsyncIterator[System]:
    async with system() as running:
        yield running


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """Returns the error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def field_of(error: grpc.aio.AioRpcError) -> str:
    """Returns the field that a BadRequest names."""
    bad = error_details_pb2.BadRequest()
    for detail in rpc_status_of(error).details:
        if detail.Unpack(bad):
            return bad.field_violations[0].field
    return ""


async def events_of(call: Any) -> list[gateway_pb2.StreamAnalyzeResponse]:
    return [event async for event in call]


def free_port() -> int:
    """Returns a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
        error = await refused(over_fakes.stub.Analyze(request_, timeout=SOON))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert (field_of(error), reason_of(rpc_status_of(error))) == (field, reason)
        stream = over_fakes.stub.StreamAnalyze(gateway_pb2.StreamAnalyzeRequest(request=request_), timeout=SOON)
        assert (await refused(events_of(stream))).details() == error.details()
        assert [fake.requests for fake in over_fakes.fakes] == [[], [], []]


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
        error = await refused(over_fakes.stub.Analyze(analyze_request(mode), timeout=SOON))
        assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "The queue is full.")
        status = rpc_status.from_call(error)
        assert reason_of(status) == "OVERLOADED"
        retry = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(retry) for detail in status.details)
        assert retry.retry_delay.ToMilliseconds() == 1500
        # An overload is never multiplied by repeating what was refused.
        assert len(fake.requests) == 1

    async def test_combined_fails_when_every_part_does_with_the_first_parts_status(self, over_fakes: System) -> None:
        over_fakes.embedder.failure = NoRelease("Nothing has been pre-computed yet: run `mondrian precompute`.")
        over_fakes.scorer.failure = DeviceMemory("The device is full.")
        over_fakes.critic.failure = Overloaded("The queue is full.")
        error = await refused(over_fakes.stub.Analyze(analyze_request(), timeout=SOON))
        assert (error.code(), reason_of(rpc_status_of(error))) == (grpc.StatusCode.UNAVAILABLE, "NO_RELEASE")

    async def test_a_photograph_that_nobody_can_read_is_reported_once(self, over_fakes: System) -> None:
        request = analyze_request(image=types_pb2.Image(content=b"not a photograph"))
        error = await refused(over_fakes.stub.Analyze(request, timeout=SOON))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert reason_of(rpc_status_of(error)) == "IMAGE_UNDECODABLE"
        assert field_of(error) == "image.content"

    async def test_a_fault_of_a_service_keeps_its_request_id_and_hides_its_cause(self, over_fakes: System) -> None:
        over_fakes.scorer.failure = ZeroDivisionError("secret")
        error = await refused(
            over_fakes.stub.Analyze(analyze_request(DIMENSIONAL), timeout=SOON, metadata=(("x-request-id", "trace-8"),))
        )
        assert error.code() == grpc.StatusCode.INTERNAL
        assert "trace-8" in (error.details() or "")
        assert "secret" not in (error.details() or "")


class TestUnknownAdvisors:
    @pytest.mark.parametrize("mode", PARTS_OF)
    async def test_an_advisor_that_exists_nowhere_is_not_found_in_every_mode(
        self, over_fakes: System, mode: gateway_pb2.Mode.ValueType
    ) -> None:
        error = await refused(over_fakes.stub.Analyze(analyze_request(mode, advisor="anselm"), timeout=SOON))
        assert error.code() == grpc.StatusCode.NOT_FOUND
        assert reason_of(rpc_status_of(error)) == "ADVISOR_NOT_FOUND"
        assert error.details() == "There is no advisor 'anselm'. Known: ansel, okeefe."

    async def test_a_stream_of_an_unknown_advisor_ends_before_its_first_word(self, over_fakes: System) -> None:
        request = gateway_pb2.StreamAnalyzeRequest(request=analyze_request(LORA, advisor="anselm"))
        call = over_fakes.stub.StreamAnalyze(request, timeout=SOON)
        seen: list[Any] = []

        async def read() -> None:
            async for event in call:
                seen.append(event)

        error = await refused(read())
        assert (error.code(), seen) == (grpc.StatusCode.NOT_FOUND, [])

    async def test_nobody_waits_for_the_critique_of_an_unknown_advisor(self, over_fakes: System) -> None:
        over_fakes.critic.gate.clear()
        error = await refused(over_fakes.stub.Analyze(analyze_request(advisor="anselm"), timeout=SOON))
        assert error.code() == grpc.StatusCode.NOT_FOUND
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
        error = await refused(over_fakes.stub.Analyze(analyze_request(DIMENSIONAL), timeout=SOON))
        assert error.details() == "There is no profile of 'ansel': pre-compute it."

    async def test_while_the_embedder_cannot_tell_the_base_models_answer_stands(self, over_fakes: System) -> None:
        over_fakes.embedder.failure = NoRelease("Nothing has been pre-computed yet.")
        answer = await over_fakes.stub.Analyze(analyze_request(LORA, advisor="anselm"), timeout=SOON)
        assert answer.critique.authorship.fell_back
        over_fakes.scorer.failure = AdvisorNotFound("There is no profile of 'anselm'.")
        answer = await over_fakes.stub.Analyze(analyze_request(advisor="anselm"), timeout=SOON)
        assert [failure.status.reason for failure in answer.failures] == ["NO_RELEASE", "ADVISOR_NOT_FOUND"]


class TestDeadlinesAndCancellation:
    async def test_combined_answers_before_the_clients_deadline_without_the_part_that_is_late(
        self, over_fakes: System
    ) -> None:
        over_fakes.critic.gate.clear()
        answer = await over_fakes.stub.Analyze(analyze_request(), timeout=1.0)
        (failure,) = answer.failures
        assert (failure.part, failure.status.code) == (CRITIQUE, grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
        assert failure.status.reason == "BACKEND_TIMEOUT"
        assert failure.status.message.startswith("The critic did not answer within 0.9")
        assert answer.HasField("references")
        assert answer.HasField("scores")
        await asyncio.wait_for(over_fakes.critic.cancelled.wait(), SOON)

    async def test_a_single_mode_says_which_service_was_late(self, over_fakes: System) -> None:
        over_fakes.scorer.gate.clear()
        error = await refused(over_fakes.stub.Analyze(analyze_request(DIMENSIONAL), timeout=0.5))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "The scorer did not answer" in (error.details() or "")

    async def test_without_a_deadline_the_modes_own_applies(self) -> None:
        async with system(clip_deadline_s=7.0, combined_deadline_s=9.0) as running:
            await running.stub.Analyze(analyze_request(CLIP))
            await running.stub.Analyze(analyze_request())
            first, second = running.embedder.time_left
            assert first is not None
            assert second is not None
            assert 5.0 < first < 7.0 < second < 9.0

    async def test_each_part_gets_what_is_left_less_a_margin(self, over_fakes: System) -> None:
        await over_fakes.stub.Analyze(analyze_request(), timeout=4.0)
        for fake in over_fakes.fakes:
            (left,) = fake.time_left
            assert left is not None
            assert 2.0 < left < 3.81

    async def test_a_grounded_critique_keeps_half_of_the_time(self, over_fakes: System) -> None:
        over_fakes.scorer.gate.clear()
        answer = await over_fakes.stub.Analyze(analyze_request(grounded=True), timeout=2.0)
        assert [failure.part for failure in answer.failures] == [SCORES]
        (left,) = over_fakes.critic.time_left
        assert left is not None
        assert 0.3 < left < 1.0
        assert answer.critique.text

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


class TestStream:
    async def test_events_come_as_parts_are_ready_and_the_whole_answer_last(self, over_fakes: System) -> None:
        for fake in over_fakes.fakes:
            fake.gate.clear()
        call = over_fakes.stub.StreamAnalyze(gateway_pb2.StreamAnalyzeRequest(request=analyze_request()), timeout=SOON)
        events = aiter(call)
        over_fakes.scorer.gate.set()
        first = await anext(events)
        over_fakes.embedder.gate.set()
        second = await anext(events)
        over_fakes.critic.gate.set()
        rest = await events_of(events)
        kinds = [event.WhichOneof("event") for event in (first, second, *rest)]
        words = len(over_fakes.critic.text.split(" "))
        assert kinds == [
            "scores",
            "references",
            "critique_started",
            *["critique_delta"] * words,
            "critique_completed",
            "completed",
        ]
        whole = rest[-1].completed
        assert "".join(event.critique_delta.text for event in rest) == whole.critique.text == over_fakes.critic.text
        assert whole.critique.authorship.adapter == "ansel"
        assert whole.critique.completion.finish_reason == critic_pb2.FINISH_REASON_STOP
        assert whole.references == second.references
        assert whole.scores == first.scores

    async def test_the_streamed_answer_is_the_unary_one(self, over_fakes: System) -> None:
        events = await events_of(
            over_fakes.stub.StreamAnalyze(gateway_pb2.StreamAnalyzeRequest(request=analyze_request()), timeout=SOON)
        )
        streamed = events[-1].completed
        unary = await over_fakes.stub.Analyze(analyze_request(), timeout=SOON)
        for answer in (streamed, unary):
            answer.ClearField("part_timings")
            answer.ClearField("total_ms")
        assert streamed == unary

    async def test_a_failed_part_is_an_event_and_the_stream_goes_on(self, over_fakes: System) -> None:
        over_fakes.embedder.failure = DeviceMemory("The device is full.")
        events = await events_of(
            over_fakes.stub.StreamAnalyze(gateway_pb2.StreamAnalyzeRequest(request=analyze_request()), timeout=SOON)
        )
        (failure,) = [event.failure for event in events if event.HasField("failure")]
        assert (failure.part, failure.status.reason) == (REFERENCES, "DEVICE_MEMORY")
        assert list(events[-1].completed.failures) == [failure]

    async def test_a_critique_that_breaks_off_is_a_failure(self, over_fakes: System) -> None:
        async def between(number: int) -> None:
            if number == 2:
                raise DeviceMemory("The device ran out of memory.")

        over_fakes.critic.between = between
        events = await events_of(
            over_fakes.stub.StreamAnalyze(gateway_pb2.StreamAnalyzeRequest(request=analyze_request()), timeout=SOON)
        )
        assert sum(event.HasField("critique_delta") for event in events) == 2
        whole = events[-1].completed
        assert not whole.HasField("critique")
        assert [failure.status.reason for failure in whole.failures] == ["DEVICE_MEMORY"]

    async def test_a_single_mode_that_fails_is_a_status_and_no_event(self, over_fakes: System) -> None:
        over_fakes.critic.failure = DeviceMemory("The device is full.")
        call = over_fakes.stub.StreamAnalyze(
            gateway_pb2.StreamAnalyzeRequest(request=analyze_request(LORA)), timeout=SOON
        )
        error = await refused(events_of(call))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


class TestBatch:
    async def test_results_carry_their_keys_and_a_failing_item_ends_alone(self, over_fakes: System) -> None:
        async def requests() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
            for number in range(20):
                wrong = number % 5 == 0
                image = types_pb2.Image(content=b"no" if wrong else PHOTOGRAPH)
                yield gateway_pb2.AnalyzeBatchRequest(key=f"k{number}", request=analyze_request(CLIP, image=image))

        results = [result async for result in over_fakes.stub.AnalyzeBatch(requests(), timeout=SOON)]
        assert sorted(result.key for result in results) == sorted(f"k{number}" for number in range(20))
        failed = {result.key: result.status for result in results if result.HasField("status")}
        assert sorted(failed) == ["k0", "k10", "k15", "k5"]
        assert {status.reason for status in failed.values()} == {"IMAGE_UNDECODABLE"}
        assert all(result.response.references.neighbors for result in results if result.HasField("response"))

    async def test_results_come_as_they_are_ready(self, over_fakes: System) -> None:
        over_fakes.critic.gate.clear()
        call = over_fakes.stub.AnalyzeBatch(timeout=SOON)
        await call.write(gateway_pb2.AnalyzeBatchRequest(key="slow", request=analyze_request(LORA)))
        await asyncio.wait_for(over_fakes.critic.entered.wait(), SOON)
        await call.write(gateway_pb2.AnalyzeBatchRequest(key="quick", request=analyze_request(CLIP)))
        assert (await call.read()).key == "quick"
        over_fakes.critic.gate.set()
        assert (await call.read()).key == "slow"
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF

    async def test_no_more_than_the_bound_are_in_flight(self) -> None:
        async with system(batch_in_flight=3) as running:
            running.embedder.gate.clear()

            async def requests() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
                for number in range(12):
                    yield gateway_pb2.AnalyzeBatchRequest(key=str(number), request=analyze_request(CLIP))

            reading = asyncio.ensure_future(events_of(running.stub.AnalyzeBatch(requests(), timeout=SOON)))
            await asyncio.wait_for(running.embedder.entered.wait(), SOON)
            # A round trip behind them on the same connections: what was let in has arrived by then.
            await running.stub.Analyze(analyze_request(DIMENSIONAL), timeout=SOON)
            assert running.embedder.in_flight <= 3
            running.embedder.gate.set()
            assert len(await reading) == 12
            assert running.embedder.most_in_flight == 3

    async def test_all_batches_together_are_bounded_and_leave_the_others_their_permits(self) -> None:
        async with system(batch_in_flight=4, max_batch_in_flight=5, max_in_flight=1) as running:
            running.embedder.gate.clear()

            async def requests() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
                for number in range(4):
                    yield gateway_pb2.AnalyzeBatchRequest(key=str(number), request=analyze_request(CLIP))

            reading = [
                asyncio.ensure_future(events_of(running.stub.AnalyzeBatch(requests(), timeout=SOON))) for _ in range(2)
            ]
            await asyncio.wait_for(running.embedder.entered.wait(), SOON)
            await running.stub.Analyze(analyze_request(DIMENSIONAL), timeout=SOON)
            running.embedder.gate.set()
            assert [len(results) for results in await asyncio.gather(*reading)] == [4, 4]
            assert running.embedder.most_in_flight <= 5

    async def test_an_overloaded_part_is_asked_again_when_it_says_so(self, over_fakes: System) -> None:
        over_fakes.critic.failures.extend(Overloaded("The queue is full.", retry_after_s=0.001) for _ in range(3))

        async def requests() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
            yield gateway_pb2.AnalyzeBatchRequest(key="a", request=analyze_request())

        (result,) = [result async for result in over_fakes.stub.AnalyzeBatch(requests(), timeout=SOON)]
        assert not result.response.failures
        assert result.response.critique.text
        assert [len(fake.requests) for fake in over_fakes.fakes] == [1, 4, 1]

    async def test_a_key_that_is_too_long_and_an_empty_request_are_items_that_fail(self, over_fakes: System) -> None:
        async def requests() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
            yield gateway_pb2.AnalyzeBatchRequest(key="k" * 257, request=analyze_request(CLIP))
            yield gateway_pb2.AnalyzeBatchRequest(key="empty")

        results = [result async for result in over_fakes.stub.AnalyzeBatch(requests(), timeout=SOON)]
        assert {result.key: result.status.reason for result in results} == {
            "k" * 256: "INVALID_ARGUMENT",
            "empty": "INVALID_ARGUMENT",
        }

    async def test_a_fault_of_the_gateway_ends_one_item(
        self, over_fakes: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*args: object) -> None:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr("services.gateway.summary.narrate", broken)
        call = over_fakes.stub.AnalyzeBatch(timeout=SOON)
        await call.write(gateway_pb2.AnalyzeBatchRequest(key="a", request=analyze_request(CLIP)))
        result = await call.read()
        assert (result.key, result.status.reason) == ("a", "INTERNAL")
        assert "secret" not in result.status.message
        assert "secret" in caplog.text
        monkeypatch.undo()
        await call.write(gateway_pb2.AnalyzeBatchRequest(key="b", request=analyze_request(CLIP)))
        assert (await call.read()).HasField("response")

    async def test_an_empty_batch_ends_well(self, over_fakes: System) -> None:
        call = over_fakes.stub.AnalyzeBatch(timeout=SOON)
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK

    async def test_a_batch_outlives_the_age_of_its_connection(self) -> None:
        async with system(max_connection_age_s=0.1) as running:
            call = running.stub.AnalyzeBatch(timeout=SOON)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            answered = 0
            # Age and grace together would have ended the call long before.
            while loop.time() < begun + 1.0:
                await call.write(gateway_pb2.AnalyzeBatchRequest(key=str(answered), request=analyze_request(CLIP)))
                assert (await call.read()).key == str(answered)
                answered += 1
            await call.done_writing()
            assert await call.read() == grpc.aio.EOF
            assert answered > 1


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
                error = await refused(call)
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                status = rpc_status_of(error)
                retry = error_details_pb2.RetryInfo()
                assert any(detail.Unpack(retry) for detail in status.details)
                assert retry.retry_delay.ToMilliseconds() == 1000
            assert not running.embedder.requests
            running.scorer.gate.set()
            await asyncio.gather(*waiting)
            # The permits are free again.
            assert (await running.stub.Analyze(analyze_request(CLIP), timeout=SOON)).summary


class TestListAdvisors:
    async def test_merges_what_the_services_know(self, over_fakes: System) -> None:
        over_fakes.critic.adapters["okeefe"] = critic_pb2.ADAPTER_STATE_REFUSED
        over_fakes.scorer.profiles.remove("ansel")
        listing = await over_fakes.stub.ListAdvisors(gateway_pb2.ListAdvisorsRequest(), timeout=SOON)
        assert [(one.advisor.id, one.advisor.name, one.has_adapter, one.has_profile) for one in listing.advisors] == [
            ("ansel", "Ansel Sample", True, False),
            ("okeefe", "Georgia Sample", False, True),
        ]
        assert not listing.failures
        assert not listing.next_page_token

    async def test_pages_join_to_the_whole(self, over_fakes: System) -> None:
        over_fakes.embedder.advisors = [
            embedder_pb2.Advisor(id=f"advisor-{number:02}", name=str(number)) for number in range(11)
        ]
        over_fakes.critic.adapters = {
            f"advisor-{number:02}": critic_pb2.ADAPTER_STATE_READY for number in range(0, 11, 2)
        }
        seen: list[gateway_pb2.AdvisorSummary] = []
        token = ""
        pages = 0
        while pages == 0 or token:
            listing = await over_fakes.stub.ListAdvisors(
                gateway_pb2.ListAdvisorsRequest(page_size=4, page_token=token), timeout=SOON
            )
            seen += listing.advisors
            token = listing.next_page_token
            pages += 1
        assert pages == 3
        assert [one.advisor.id for one in seen] == [f"advisor-{number:02}" for number in range(11)]
        assert [one.has_adapter for one in seen] == [number % 2 == 0 for number in range(11)]

    @pytest.mark.parametrize("fields", [{"page_size": -1}, {"page_token": "made up"}])
    async def test_a_wrong_page_is_refused(self, over_fakes: System, fields: dict[str, Any]) -> None:
        error = await refused(over_fakes.stub.ListAdvisors(gateway_pb2.ListAdvisorsRequest(**fields), timeout=SOON))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert field_of(error) == next(iter(fields))

    async def test_what_cannot_be_asked_is_named(self, over_fakes: System) -> None:
        over_fakes.critic.failure = InvalidArgument("No.")
        over_fakes.scorer.failure = DeviceMemory("The device is full.")
        listing = await over_fakes.stub.ListAdvisors(gateway_pb2.ListAdvisorsRequest(), timeout=SOON)
        assert [failure.part for failure in listing.failures] == [CRITIQUE, SCORES]
        assert not any(one.has_adapter or one.has_profile for one in listing.advisors)

    async def test_without_the_embedder_there_is_no_list(self, over_fakes: System) -> None:
        over_fakes.embedder.failure = NoRelease("Nothing has been pre-computed yet.")
        error = await refused(over_fakes.stub.ListAdvisors(gateway_pb2.ListAdvisorsRequest(), timeout=SOON))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "Nothing has been pre-computed yet.")


class TestUnreachableBackends:
    async def test_a_backend_that_is_not_there_costs_no_time_and_its_return_is_noticed(self) -> None:
        embedder, critic, scorer = FakeEmbedder(), FakeCritic(), FakeScorer()
        port = free_port()
        async with served(embedder) as first, served(scorer) as third:
            settings = GatewaySettings(
                port=0,
                drain_s=0,
                start_gate_s=0.05,
                embedder=first.address,
                critic=f"127.0.0.1:{port}",
                scorer=third.address,
            )
            async with gateway_at(settings) as (stub, address):
                # The gateway itself is SERVING: the parts that work must not leave the balancer with this one.
                async with grpc.aio.insecure_channel(address) as channel:
                    health = await health_pb2_grpc.HealthStub(channel).Check(
                        health_pb2.HealthCheckRequest(service="mondrian.gateway.v1.GatewayService"), timeout=SOON
                    )
                    assert health.status == health_pb2.HealthCheckResponse.SERVING
                answer = await stub.Analyze(analyze_request(), timeout=SOON)
                (failure,) = answer.failures
                assert (failure.part, failure.status.reason) == (CRITIQUE, "BACKEND_UNAVAILABLE")
                assert failure.status.message == "The critic cannot be reached; try again in a moment."
                assert answer.total_ms < SOON * 1e3 / 2
                assert "The critique is missing: the critic cannot be reached" in answer.summary
                error = await refused(stub.Analyze(analyze_request(LORA), timeout=SOON))
                assert (error.code(), reason_of(rpc_status_of(error))) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "BACKEND_UNAVAILABLE",
                )

                async with served(critic, port):
                    assert await eventually(stub)
                # And away again, in the middle of everything.
                answer = await stub.Analyze(analyze_request(), timeout=SOON)
                assert [failure.status.reason for failure in answer.failures] == ["BACKEND_UNAVAILABLE"]

    async def test_a_backend_that_accepts_and_says_nothing_is_given_up(self) -> None:
        # The kernel accepts connections; nobody ever reads from them.
        with socket.socket() as hung:
            hung.bind(("127.0.0.1", 0))
            hung.listen()
            port = hung.getsockname()[1]
            async with system(critic=f"127.0.0.1:{port}", start_gate_s=0.05, connect_s=0.3) as running:
                answer = await running.stub.Analyze(analyze_request(), timeout=SOON)
            assert [failure.status.reason for failure in answer.failures] == ["BACKEND_UNAVAILABLE"]
            assert answer.total_ms < SOON * 1e3 / 2

    async def test_another_service_at_the_address_is_not_taken_for_the_backend(self) -> None:
        wrong = FakeScorer()
        async with (
            served(wrong) as server,
            system(critic=server.address, start_gate_s=0.05) as running,
        ):
            answer = await running.stub.Analyze(analyze_request(), timeout=SOON)
            assert [failure.status.reason for failure in answer.failures] == ["BACKEND_UNAVAILABLE"]

    async def test_a_replica_that_stops_serving_gets_no_calls(self) -> None:
        staying, leaving = FakeCritic(), FakeCritic()
        async with served(staying) as first, served(leaving) as second:
            async with system(critic=f"ipv4:{first.address},{second.address}") as balanced:
                while not (staying.requests and leaving.requests):
                    await balanced.stub.Analyze(analyze_request(LORA), timeout=SOON)
                await second._set(health_pb2.HealthCheckResponse.NOT_SERVING)
                # The news travels on a stream of its own; once it is there, no call goes to the one that leaves.
                before = -1
                while len(leaving.requests) != before:
                    before = len(leaving.requests)
                    for _ in range(4):
                        await balanced.stub.Analyze(analyze_request(LORA), timeout=SOON)
                for _ in range(10):
                    await balanced.stub.Analyze(analyze_request(LORA), timeout=SOON)
                assert len(leaving.requests) == before


async def eventually(stub: Any) -> bool:
    """Asks until an answer is whole again; False when that takes longer than SOON."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + SOON
    while loop.time() < give_up:
        answer = await stub.Analyze(analyze_request(), timeout=SOON)
        if not answer.failures:
            return True
    return False


def test_the_fakes_reference_ids_are_distinct() -> None:
    assert reference("a", "b").id != reference("a", "c").id != reference("b", "b").id
