"""Embedding over the wire: once a photograph, words too, and bad input is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mondrian.embedder.v1 import embedder_pb2

from tests.integration.embedder.calls import Code, Service, image
from tests.integration.refusals import refused
from tests.pictures import encoded, photograph, picture


async def test_a_photograph_is_embedded_once(service: Service) -> None:
    request = embedder_pb2.EmbedRequest(image=image(photograph(50)))
    first = await service.stub.Embed(request)
    again = await service.stub.Embed(request)
    assert (first.cached, again.cached) == (False, True)
    assert first.encoder == f"fake@{service.encoder.space_id}"
    values = np.asarray(first.embedding.values)
    assert values.shape == (32,)
    assert np.linalg.norm(values) == pytest.approx(1.0, abs=1e-6)
    assert list(again.embedding.values) == list(first.embedding.values)
    assert first.timings.total_ms >= first.timings.decode_ms > 0
    assert first.timings.total_ms >= first.timings.compute_ms > 0
    assert again.timings.total_ms > 0
    assert (again.timings.decode_ms, again.timings.compute_ms, again.timings.queue_ms) == (0, 0, 0)


async def test_a_reference_needs_no_encoder(service: Service) -> None:
    service.encoder.batches.clear()
    response = await service.stub.Embed(embedder_pb2.EmbedRequest(image=image(photograph(3))))
    assert response.cached
    assert service.encoder.batches == []


async def test_words_are_embedded(service: Service) -> None:
    request = embedder_pb2.EmbedRequest(text="a ridge at dawn")
    first, again = await service.stub.Embed(request), await service.stub.Embed(request)
    assert (first.cached, again.cached) == (False, True)
    assert np.linalg.norm(first.embedding.values) == pytest.approx(1.0, abs=1e-6)


BAD_INPUTS = {
    "nothing": (embedder_pb2.EmbedRequest(), "INVALID_ARGUMENT"),
    "no bytes": (embedder_pb2.EmbedRequest(image=image(b"")), "IMAGE_EMPTY"),
    "words": (embedder_pb2.EmbedRequest(image=image(b"not a photograph")), "IMAGE_UNDECODABLE"),
    "cut off": (embedder_pb2.EmbedRequest(image=image(photograph(1)[:300])), "IMAGE_TRUNCATED"),
    "too many pixels": (
        embedder_pb2.EmbedRequest(image=image(encoded(picture(1, (400, 300))))),
        "IMAGE_TOO_LARGE",
    ),
    "empty text": (embedder_pb2.EmbedRequest(text=""), "TEXT_INVALID"),
    "blank text": (embedder_pb2.EmbedRequest(text=" \n"), "TEXT_INVALID"),
    "long text": (embedder_pb2.EmbedRequest(text="x" * 1001), "TEXT_INVALID"),
}


@pytest.mark.parametrize(("request_", "reason"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
async def test_bad_input_is_refused_and_the_service_goes_on(
    tmp_path: Path, request_: embedder_pb2.EmbedRequest, reason: str
) -> None:
    async with Service(tmp_path, max_image_pixels=100_000).serve() as service:
        await refused(service.stub.Embed(request_), Code.INVALID_ARGUMENT, reason)
        assert (await service.stub.Embed(embedder_pb2.EmbedRequest(image=image(photograph(1))))).embedding.values
