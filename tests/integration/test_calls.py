"""Calls to a real server in this process: errors over the wire, refusals, cancellation, lateness."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterable

import grpc
import grpc.aio
import pytest
from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc
from prometheus_client import REGISTRY

from services.core import errors
from services.core.rpc.channels import channel_options
from services.core.rpc.server import running
from services.core.settings import ServiceSettings
from tests.fakes.toy import NAME, Toy
from tests.integration.refusals import refused

EXPECTED_CODES = {
    "InvalidArgument": "INVALID_ARGUMENT",
    "InvalidImage": "INVALID_ARGUMENT",
    "InvalidText": "INVALID_ARGUMENT",
    "InvalidEmbedding": "INVALID_ARGUMENT",
    "Unauthenticated": "UNAUTHENTICATED",
    "AdvisorNotFound": "NOT_FOUND",
    "ReferenceNotFound": "NOT_FOUND",
    "ModelNotFound": "NOT_FOUND",
    "EncoderMismatch": "FAILED_PRECONDITION",
    "Overloaded": "RESOURCE_EXHAUSTED",
    "DeviceMemory": "RESOURCE_EXHAUSTED",
    "NotReady": "UNAVAILABLE",
    "Draining": "UNAVAILABLE",
    "EngineStopped": "UNAVAILABLE",
    "NoRelease": "UNAVAILABLE",
    "BackendUnavailable": "UNAVAILABLE",
    "QueuedTooLong": "DEADLINE_EXCEEDED",
}


def test_the_table_holds_every_error_and_no_other() -> None:
    assert {kind.__name__: row.code.name for kind, row in errors.TABLE.items()} == EXPECTED_CODES


@pytest.mark.parametrize("kind", list(errors.TABLE), ids=lambda kind: kind.__name__)
async def test_every_row_of_the_table_crosses_the_wire(
    kind: type[errors.MondrianError], toy: Toy, channel: grpc.aio.Channel
) -> None:
    toy.servicer.error = kind("Say why.", retry_after_s=1.5, field="image")
    refusal = await refused(critic_pb2_grpc.CriticServiceStub(channel).Critique(critic_pb2.CritiqueRequest()))
    assert refusal.code.name == EXPECTED_CODES[kind.__name__]
    assert refusal.sentence == "Say why."
    assert refusal.reason == errors.TABLE[kind].reason
    assert (refusal.retry_after_s, refusal.field) == (1.5, "image")


async def test_an_unknown_failure_tells_only_its_request_id(toy: Toy, channel: grpc.aio.Channel) -> None:
    toy.servicer.error = ValueError("a secret path")
    stub = critic_pb2_grpc.CriticServiceStub(channel)
    refusal = await refused(stub.Critique(critic_pb2.CritiqueRequest(), metadata=(("x-request-id", "abc-1"),)))
    assert refusal.code is grpc.StatusCode.INTERNAL
    assert "abc-1" in refusal.sentence
    assert "secret" not in refusal.sentence


async def test_a_failing_stream_ends_with_its_status(toy: Toy, channel: grpc.aio.Channel) -> None:
    toy.servicer.error = errors.Overloaded("Full.", retry_after_s=1)
    call = critic_pb2_grpc.CriticServiceStub(channel).StreamCritique(critic_pb2.StreamCritiqueRequest())
    started = await call.read()
    assert isinstance(started, critic_pb2.StreamCritiqueResponse)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["Critique", "StreamCritique"])
async def test_bytes_that_are_no_message_are_the_callers_fault_and_leave_no_trace_in_the_log(
    toy: Toy, channel: grpc.aio.Channel, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{NAME}/{method}")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xff\xff\xff")
    assert errors.reason_of(errors.rpc_status_of(caught.value)) == "INVALID_ARGUMENT"
    assert "no message" in (caught.value.details() or "")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_request_that_could_unfold_in_memory_is_refused_as_it_is(
    toy: Toy, channel: grpc.aio.Channel, compression: grpc.Compression
) -> None:
    photograph = critic_pb2.CritiqueRequest()
    photograph.image.content = bytes(1_000_000)
    toy.servicer.release.set()
    call = critic_pb2_grpc.CriticServiceStub(channel).Critique(photograph, compression=compression)
    with pytest.raises(grpc.aio.AioRpcError, match="is disabled") as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not toy.servicer.entered.is_set()


async def test_requests_too_large_to_be_answered_together_are_refused_at_once(toy: Toy) -> None:
    settings = ServiceSettings.load(port=0, drain_s=0, max_bytes_in_flight=1_000_000)
    photograph = critic_pb2.CritiqueRequest()
    photograph.image.content = bytes(600_000)
    async with running(toy, settings) as address, grpc.aio.insecure_channel(address, channel_options()) as channel:
        stub = critic_pb2_grpc.CriticServiceStub(channel)
        first = stub.Critique(photograph)
        await toy.servicer.entered.wait()
        with pytest.raises(grpc.aio.AioRpcError, match="try again") as caught:
            await stub.Critique(photograph)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        small = stub.Critique(critic_pb2.CritiqueRequest())
        toy.servicer.release.set()
        assert (await first).text == (await small).text == "done"
        assert (await stub.Critique(photograph)).text == "done"


async def test_a_call_that_failed_keeps_its_photograph_no_longer(toy: Toy, channel: grpc.aio.Channel) -> None:
    stub = critic_pb2_grpc.CriticServiceStub(channel)
    toy.servicer.error = errors.InvalidImage("It is no photograph.")
    gc.disable()
    try:
        for call in (
            lambda: stub.Critique(critic_pb2.CritiqueRequest()),
            lambda: _read(stub.StreamCritique(critic_pb2.StreamCritiqueRequest())),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="no photograph"):
                await call()
            # The status goes out before the library has done with the call; others keep its loop turning meanwhile.
            for _ in range(100):
                await stub.ListAdapters(critic_pb2.ListAdaptersRequest())
                references = sys.getrefcount(toy.servicer.request)
                if references == 2:  # the attribute, and what is asked
                    break
            assert references == 2
    finally:
        gc.enable()


async def _read(stream: AsyncIterable[object]) -> None:
    async for _ in stream:
        pass


async def test_a_stream_that_is_cancelled_closes_its_handler(toy: Toy, channel: grpc.aio.Channel) -> None:
    call = critic_pb2_grpc.CriticServiceStub(channel).StreamCritique(critic_pb2.StreamCritiqueRequest())
    await call.read()
    call.cancel()
    await asyncio.wait_for(toy.servicer.closed.wait(), 60)


@pytest.mark.parametrize(("method", "answer"), [("Critique", "unary_unary"), ("StreamCritique", "unary_stream")])
async def test_a_call_whose_time_is_up_is_counted_as_late_and_one_that_is_given_up_is_not(
    toy: Toy, method: str, answer: str
) -> None:
    def counted(code: str) -> float:
        labels = {"method": f"/{NAME}/{method}", "code": code}
        return REGISTRY.get_sample_value("mondrian_rpc_seconds_count", labels) or 0.0

    before = counted("DEADLINE_EXCEEDED"), counted("CANCELLED")
    async with running(toy, ServiceSettings.load()) as address, grpc.aio.insecure_channel(address) as channel:
        # Connected first, so that the call is there long before its time is up.
        await critic_pb2_grpc.CriticServiceStub(channel).ListAdapters(critic_pb2.ListAdaptersRequest())
        late = getattr(channel, answer)(f"/{NAME}/{method}")(b"", timeout=4.0)
        await toy.servicer.entered.wait()
        assert await late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        toy.servicer.entered.clear()
        left = getattr(channel, answer)(f"/{NAME}/{method}")(b"", timeout=60.0)
        await toy.servicer.entered.wait()
        left.cancel()
    assert (counted("DEADLINE_EXCEEDED"), counted("CANCELLED")) == (before[0] + 1, before[1] + 1)
