"""The embedder under load: full, left alone, out of time."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from mondrian.embedder.v1 import embedder_pb2

from tests.integration.embedder.calls import Code, Service, image
from tests.integration.refusals import refused
from tests.pictures import photograph


async def test_when_full_the_caller_is_told_to_come_back(service: Service) -> None:
    service.encoder.gate.clear()
    calls = [
        asyncio.create_task(service.search(advisor="ansel", image=image(photograph(seed)))) for seed in range(100, 108)
    ]
    # Eight are admitted: four in the batch and four waiting.
    while service.component.engine().in_flight < 8:  # noqa: ASYNC110 - the service tells nobody when it is full
        await asyncio.sleep(0)
    extra = service.search(advisor="ansel", image=image(photograph(200)))
    refusal = await refused(extra, Code.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert "try again in" in refusal.sentence
    # What needs no encoder is answered all the same.
    assert (await service.search(advisor="ansel", image=image(photograph(2)))).cached
    service.encoder.gate.set()
    assert all(response.neighbors for response in await asyncio.gather(*calls))


async def test_after_a_burst_whose_callers_have_left_at_most_one_batch_is_computed(service: Service) -> None:
    service.encoder.batches.clear()
    service.encoder.gate.clear()
    calls = [service.stub.Embed(embedder_pb2.EmbedRequest(image=image(photograph(seed)))) for seed in range(300, 308)]
    engine = service.component.engine()
    for _ in range(3):  # the two of the warm-up, and the first of the burst
        await asyncio.to_thread(service.encoder.began.acquire)
    while engine.in_flight < 8:  # noqa: ASYNC110 - the service tells nobody when it is full
        await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    while engine.in_flight:  # noqa: ASYNC110 - nor when it is empty
        await asyncio.sleep(0)
    service.encoder.gate.set()
    assert (await service.stub.Embed(embedder_pb2.EmbedRequest(image=image(photograph(400))))).embedding.values
    first, *rest = service.encoder.batches
    assert first <= 4
    assert rest == [1]


async def test_a_deadline_ends_the_wait(service: Service) -> None:
    service.encoder.gate.clear()
    call = service.stub.Embed(embedder_pb2.EmbedRequest(image=image(photograph(60))), timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    assert failed.value.code() == Code.DEADLINE_EXCEEDED
    service.encoder.gate.set()
    assert (await service.stub.Embed(embedder_pb2.EmbedRequest(image=image(photograph(61))))).embedding.values


async def test_a_fault_of_the_model_is_internal_without_details(service: Service) -> None:
    service.encoder.failure = RuntimeError("secret path /models/x")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await service.stub.Embed(embedder_pb2.EmbedRequest(image=image(photograph(70))))
    assert failed.value.code() == Code.INTERNAL
    assert "secret" not in str(failed.value.details())
