"""The critic over the wire: rows that are given up, refused, or outlive their server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc

from services.core.rpc.server import RunningServer
from services.critic.adapter_format import Base
from services.critic.component import CriticComponent
from tests.integration.critic.calls import endless, engine_of, in_one_loop, request_of, settings_of
from tests.integration.refusals import refused
from tests.unit.critic.running import until_idle

if TYPE_CHECKING:
    from mondrian.critic.v1.critic_pb2_grpc import CriticServiceAsyncStub as Stub


def filled_its_slot(completion: critic_pb2.Completion) -> bool:
    """Returns whether a critique was written as far as its slot's 4,096 tokens reach."""
    return completion.prompt_tokens + completion.completion_tokens == 4096


@in_one_loop
async def test_a_client_that_cancels_frees_its_row(server: RunningServer, stub: Stub) -> None:
    calls = [stub.StreamCritique(endless()) for _ in range(2)]
    for call in calls:
        await call.read()
    for call in calls:
        call.cancel()
    # Both slots were taken for thousands of tokens; this answer needs one of them.
    assert (await stub.Critique(request_of())).text
    await until_idle(engine_of(server))


@in_one_loop
async def test_a_deadline_ends_a_critique_and_frees_its_row(server: RunningServer, stub: Stub) -> None:
    call = stub.StreamCritique(endless(), timeout=0.3)
    with pytest.raises(grpc.RpcError) as failure:
        async for _ in call:
            pass
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until_idle(engine_of(server))


@in_one_loop
async def test_one_request_too_many_is_refused_with_a_time_to_try_again(server: RunningServer, stub: Stub) -> None:
    calls = [stub.StreamCritique(endless()) for _ in range(2)]
    for call in calls:
        await call.read()
    waiting = [stub.StreamCritique(endless()) for _ in range(2)]
    reads = [asyncio.ensure_future(call.read()) for call in waiting]
    while engine_of(server).stats().waiting < 2:
        await engine_of(server).turn()
    refusal = await refused(stub.Critique(request_of()))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert refusal.retry_after_s
    for call in [*calls, *waiting]:
        call.cancel()
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*reads, return_exceptions=True))
    await until_idle(engine_of(server))


@in_one_loop
@pytest.mark.parametrize("part", ["prefill", "decode"])
async def test_a_device_without_memory_is_answered_with_a_time_to_try_again_and_survived(
    own_server: RunningServer, own_stub: Stub, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    wanted = (await own_stub.Critique(request_of())).text

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine_of(own_server)._writer.decoder, part, full)
    refusal = await refused(own_stub.Critique(request_of()))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DEVICE_MEMORY")
    assert refusal.retry_after_s
    monkeypatch.undo()
    assert (await own_stub.Critique(request_of())).text == wanted


@in_one_loop
async def test_health_follows_the_engine(
    own_server: RunningServer, own_stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with grpc.aio.insecure_channel(own_server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service=CriticComponent.service_name)
        assert (await health.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING

        def broken(*_: object) -> None:
            raise RuntimeError("a fault of the device")

        monkeypatch.setattr(engine_of(own_server)._writer.decoder, "decode", broken)
        refusal = await refused(own_stub.Critique(request_of(max_tokens=40)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_STOPPED")
        watch = health.Watch(asked)
        async for update in watch:
            if update.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                break
        watch.cancel()


@in_one_loop
async def test_a_client_that_does_not_read_holds_up_nobody_and_no_row(server: RunningServer, stub: Stub) -> None:
    wanted = (await stub.Critique(request_of())).text
    slow = aiter(stub.StreamCritique(endless()))
    await anext(slow)
    for _ in range(3):
        assert (await stub.Critique(request_of())).text == wanted
    # Its row is written to the end and freed, though nobody has read what it wrote.
    await until_idle(engine_of(server))
    events = [event async for event in slow]
    assert filled_its_slot(events[-1].completed.completion)


@in_one_loop
async def test_json_that_is_cancelled_frees_its_row_and_the_next_is_whole(server: RunningServer, stub: Stub) -> None:
    request = endless()
    request.request.generation_config.output_format = critic_pb2.OUTPUT_FORMAT_JSON
    cancelled = engine_of(server).stats().cancelled
    calls = [stub.StreamCritique(request) for _ in range(2)]
    for call in calls:
        events = aiter(call)
        assert (await anext(events)).WhichOneof("event") == "started"
        assert (await anext(events)).WhichOneof("event") == "delta"
        call.cancel()
    await until_idle(engine_of(server))
    assert engine_of(server).stats().cancelled == cancelled + 2
    request.request.generation_config.max_tokens = 70
    answer = await stub.Critique(request.request)
    assert list(json.loads(answer.text)) == ["overview", "strengths", "to_try", "voice"]


@in_one_loop
async def test_a_stream_in_flight_is_written_to_its_end_while_the_server_drains(
    folder: Path, base: Base, tmp_path: Path
) -> None:
    settings = settings_of(folder, base, tmp_path / "adapters").model_copy(update={"drain_s": 1200.0})
    server = RunningServer(CriticComponent(settings), settings)
    async with server, grpc.aio.insecure_channel(server.address) as channel:
        stream = aiter(critic_pb2_grpc.CriticServiceStub(channel).StreamCritique(endless()))
        await anext(stream)
        asked = health_pb2.HealthCheckRequest(service=CriticComponent.service_name)
        watch = health_pb2_grpc.HealthStub(channel).Watch(asked)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        events = [event async for event in stream]
        assert filled_its_slot(events[-1].completed.completion)
        await stopping
