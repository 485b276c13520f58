"""Parts as they are ready, and many photographs over one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from mondrian.critic.v1 import critic_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.types.v1 import types_pb2

from services.core.errors import (
    DeviceMemory,
    Overloaded,
)
from tests.fakes.backends import PHOTOGRAPH
from tests.fakes.system import System, analyze_request, system
from tests.integration.gateway.calls import (
    CLIP,
    DIMENSIONAL,
    LORA,
    REFERENCES,
    SOON,
    events_of,
    next_of,
)
from tests.integration.refusals import refused


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
        assert whole.critique.sections.overview == over_fakes.critic.text
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
        refusal = await refused(events_of(call))
        assert refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED


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
        assert (await next_of(call)).key == "quick"
        over_fakes.critic.gate.set()
        assert (await next_of(call)).key == "slow"
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF

    async def test_no_more_than_the_bound_are_in_flight(self) -> None:
        async with system(batch_in_flight=3) as running:
            running.embedder.gate.clear()

            async def requests() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
                for number in range(12):
                    yield gateway_pb2.AnalyzeBatchRequest(key=str(number), request=analyze_request(CLIP))

            reading = asyncio.ensure_future(events_of(running.stub.AnalyzeBatch(requests(), timeout=SOON)))
            while running.embedder.in_flight < 3:
                await asyncio.wait_for(running.embedder.entered.wait(), SOON)
                running.embedder.entered.clear()
            # A round trip behind them on the same connections: what was let in has arrived by then.
            await running.stub.Analyze(analyze_request(DIMENSIONAL), timeout=SOON)
            assert running.embedder.in_flight == 3
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

    async def test_a_batch_beyond_those_that_are_let_in_is_refused_before_it_is_read(self) -> None:
        async with system(max_batches=1) as running:
            first = running.stub.AnalyzeBatch(timeout=SOON)
            await first.write(gateway_pb2.AnalyzeBatchRequest(key="a", request=analyze_request(CLIP)))
            assert (await next_of(first)).key == "a"
            refusal = await refused(running.stub.AnalyzeBatch(_nothing(), timeout=SOON).read())
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "answering 1 batches" in refusal.sentence
            await first.done_writing()
            assert await first.read() == grpc.aio.EOF
            assert await running.stub.AnalyzeBatch(_nothing(), timeout=SOON).read() == grpc.aio.EOF

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
        result = await next_of(call)
        assert (result.key, result.status.reason) == ("a", "INTERNAL")
        assert "secret" not in result.status.message
        assert "secret" in caplog.text
        monkeypatch.undo()
        await call.write(gateway_pb2.AnalyzeBatchRequest(key="b", request=analyze_request(CLIP)))
        assert (await next_of(call)).HasField("response")

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
            while loop.time() < begun + 1.0 or answered < 2:
                await call.write(gateway_pb2.AnalyzeBatchRequest(key=str(answered), request=analyze_request(CLIP)))
                assert (await next_of(call)).key == str(answered)
                answered += 1
            await call.done_writing()
            assert await call.read() == grpc.aio.EOF

    async def test_bytes_that_are_no_message_end_it_with_a_sentence(self, over_fakes: System) -> None:
        async def requests() -> AsyncIterator[bytes]:
            yield gateway_pb2.AnalyzeBatchRequest(key="a", request=analyze_request(CLIP)).SerializeToString()
            yield b"\xff\xff\xff"

        async with grpc.aio.insecure_channel(over_fakes.address) as channel:
            send: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
            send = channel.stream_stream("/mondrian.gateway.v1.GatewayService/AnalyzeBatch")
            with pytest.raises(grpc.aio.AioRpcError, match="no message"):
                async for _ in send(requests(), timeout=SOON):
                    pass
        assert over_fakes.embedder.in_flight == 0


async def _nothing() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
    """A batch of no photographs."""
    none: list[gateway_pb2.AnalyzeBatchRequest] = []
    for request in none:
        yield request
