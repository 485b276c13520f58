"""Searching over the wire: by all four queries, with filters and diversity; each fault has its status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf import json_format
from mondrian.embedder.v1 import embedder_pb2
from mondrian.types.v1 import types_pb2

from services.core.images.reading import sha256
from tests.integration.embedder.calls import Code, Service, image
from tests.integration.refusals import refused
from tests.pictures import advisor_folder, photograph


async def test_the_nearest_references_come_first_with_all_that_is_said_of_them(service: Service) -> None:
    response = await service.search(advisor="ansel", image=image(photograph(4)), include_thumbnails=True)
    assert len(response.neighbors) == 3
    first = response.neighbors[0]
    assert first.reference.id == sha256(photograph(4))
    assert first.similarity == pytest.approx(1.0, abs=1e-6)
    similarities = [neighbor.similarity for neighbor in response.neighbors]
    assert similarities == sorted(similarities, reverse=True)
    reference = json_format.MessageToDict(first.reference)
    assert reference.pop("thumbnailJpeg")
    assert reference == {
        "id": sha256(photograph(4)),
        "advisor": "ansel",
        "title": "004",
        "width": 96,
        "height": 64,
        "fileName": "004.png",
    }
    assert not first.reference.HasField("year")
    assert response.cached
    assert response.release == service.store.current_id()
    assert response.encoder == f"fake@{service.encoder.space_id}"
    assert 0 < response.timings.search_ms <= response.timings.total_ms
    plain = await service.search(advisor="ansel", image=image(photograph(4)))
    assert not any(neighbor.reference.thumbnail_jpeg for neighbor in plain.neighbors)


async def test_all_four_queries_find_the_same(service: Service) -> None:
    content = photograph(5)
    embedded = await service.stub.Embed(embedder_pb2.EmbedRequest(image=image(content)))
    by_image = await service.search(advisor="ansel", image=image(content), top_k=5)
    by_embedding = await service.search(
        advisor="ansel", embedding=embedded.embedding, encoder=embedded.encoder, top_k=5
    )
    by_reference = await service.search(advisor="ansel", reference_id=sha256(content), top_k=4)
    ids = [neighbor.reference.id for neighbor in by_image.neighbors]
    assert ids == [neighbor.reference.id for neighbor in by_embedding.neighbors]
    assert ids[1:] == [neighbor.reference.id for neighbor in by_reference.neighbors], "the reference itself is left out"
    assert not by_embedding.cached
    by_text = await service.search(text="a ridge at dawn", top_k=100)
    assert len(by_text.neighbors) == 16


async def test_without_an_advisor_all_are_searched(service: Service) -> None:
    response = await service.search(image=image(photograph(10)), top_k=3)
    assert [(one.reference.id, one.reference.advisor) for one in response.neighbors[:2]] == [
        (sha256(photograph(10)), "ansel"),
        (sha256(photograph(10)), "okeefe"),
    ]
    # A reference of one advisor may be looked for among another's.
    crossed = await service.search(advisor="okeefe", reference_id=sha256(photograph(0)), top_k=10)
    assert len(crossed.neighbors) == 4


async def test_only_what_fits_the_filter_is_found(tmp_path: Path) -> None:
    service = Service(tmp_path)
    folder = advisor_folder(tmp_path / "advisors" / "ansel", range(6))
    (folder / "metadata.yaml").write_text(
        "000.png: {year: 1930, tags: [snow]}\n001.png: {year: 1940, tags: [Snow, lake]}\n002.png: {tags: [lake]}\n"
    )
    service.precompute("ansel", range(6))

    async def files(**conditions: Any) -> list[str]:
        only = embedder_pb2.ReferenceFilter(**conditions)
        response = await service.search(image=image(photograph(1)), filter=only, top_k=100)
        return sorted(one.reference.file_name for one in response.neighbors)

    async with service.serve():
        assert len(await files()) == 6
        assert await files(year_from=1935) == ["001.png"]
        assert await files(year_to=1940) == ["000.png", "001.png"]
        assert await files(tags=["SNOW"]) == ["000.png", "001.png"]
        assert await files(tags=["lake"], year_from=1900) == ["001.png"]
        assert await files(tags=["nothing"]) == []
        await refused(files(year_from=1), Code.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_the_neighbors_may_be_asked_to_differ(service: Service) -> None:
    nearest = await service.search(advisor="ansel", image=image(photograph(7)), top_k=4)
    varied = await service.search(advisor="ansel", image=image(photograph(7)), top_k=4, diversity=0.7)
    assert varied.neighbors[0] == nearest.neighbors[0]
    assert len({one.reference.id for one in varied.neighbors}) == 4
    similarities = [one.similarity for one in varied.neighbors]
    assert similarities == sorted(similarities, reverse=True)

    async def resemblance(response: embedder_pb2.SearchReferencesResponse) -> float:
        """Returns the greatest similarity between two of the neighbors."""
        stored = [
            await service.stub.GetReference(embedder_pb2.GetReferenceRequest(id=one.reference.id))
            for one in response.neighbors
        ]
        vectors = np.asarray([one.embedding.values for one in stored])
        return float((vectors @ vectors.T - 2 * np.eye(len(vectors))).max())

    assert await resemblance(varied) < await resemblance(nearest)


async def test_the_length_of_an_embedding_does_not_matter(service: Service) -> None:
    embedded = await service.stub.Embed(embedder_pb2.EmbedRequest(image=image(photograph(2))))
    for factor in (1e-30, 0.5, 1e30):
        scaled = types_pb2.Embedding(values=[value * factor for value in embedded.embedding.values])
        response = await service.search(advisor="ansel", embedding=scaled)
        assert response.neighbors[0].reference.id == sha256(photograph(2))
        assert response.neighbors[0].similarity == pytest.approx(1.0, abs=1e-5)


def vector(*values: float) -> types_pb2.Embedding:
    return types_pb2.Embedding(values=[*values, *[0.0] * (32 - len(values))])


SEARCH_FAILURES: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "nothing to search for": ({"advisor": "ansel"}, Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    "bad photograph": ({"image": image(b"x")}, Code.INVALID_ARGUMENT, "IMAGE_UNDECODABLE"),
    "empty text": ({"text": ""}, Code.INVALID_ARGUMENT, "TEXT_INVALID"),
    "unknown advisor": ({"advisor": "nobody", "text": "x"}, Code.NOT_FOUND, "ADVISOR_NOT_FOUND"),
    "malformed advisor": ({"advisor": "../../etc", "text": "x"}, Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    "unknown reference": ({"reference_id": "0" * 64}, Code.NOT_FOUND, "REFERENCE_NOT_FOUND"),
    "no id": ({"reference_id": "../x"}, Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    "negative top_k": ({"text": "x", "top_k": -1}, Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    "large top_k": ({"text": "x", "top_k": 101}, Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    "negative diversity": ({"text": "x", "diversity": -0.1}, Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    "diversity NaN": ({"text": "x", "diversity": float("nan")}, Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    "short embedding": (
        {"embedding": types_pb2.Embedding(values=[1.0] * 31)},
        Code.INVALID_ARGUMENT,
        "EMBEDDING_INVALID",
    ),
    "no embedding": ({"embedding": types_pb2.Embedding()}, Code.INVALID_ARGUMENT, "EMBEDDING_INVALID"),
    "NaN": ({"embedding": vector(float("nan"))}, Code.INVALID_ARGUMENT, "EMBEDDING_INVALID"),
    "infinity": ({"embedding": vector(float("inf"))}, Code.INVALID_ARGUMENT, "EMBEDDING_INVALID"),
    "zero": ({"embedding": vector(0.0)}, Code.INVALID_ARGUMENT, "EMBEDDING_INVALID"),
    "another encoder": (
        {"embedding": vector(1.0), "encoder": "fake@0123456789abcdef"},
        Code.FAILED_PRECONDITION,
        "ENCODER_MISMATCH",
    ),
}


async def test_each_fault_of_a_search_has_its_status(service: Service) -> None:
    for name, (fields, code, reason) in SEARCH_FAILURES.items():
        refusal = await refused(service.search(**fields), code, reason)
        assert refusal.sentence.endswith("."), name
    assert (await service.search(text="still there")).neighbors


async def test_a_number_that_is_refused_is_named_as_it_was_given(service: Service) -> None:
    for given in (1.0000001, -0.1, 1e20):
        search = service.search(text="x", diversity=given)
        refusal = await refused(search, Code.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        assert refusal.sentence.startswith(f"diversity is {given}; ")
