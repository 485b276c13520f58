"""Advisors and references over the wire."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from mondrian.embedder.v1 import embedder_pb2

from services.core.images.reading import sha256
from tests.integration.embedder.calls import Code, Service, image
from tests.integration.refusals import refused
from tests.pictures import photograph


async def test_advisors_come_in_pages(service: Service) -> None:
    first = await service.stub.ListAdvisors(embedder_pb2.ListAdvisorsRequest(page_size=1))
    assert [(one.id, one.name, one.reference_count) for one in first.advisors] == [("ansel", "ansel", 12)]
    assert first.release == service.store.current_id()
    second = await service.stub.ListAdvisors(
        embedder_pb2.ListAdvisorsRequest(page_size=1, page_token=first.next_page_token)
    )
    assert [one.id for one in second.advisors] == ["okeefe"]
    assert second.next_page_token == ""
    assert len((await service.stub.ListAdvisors(embedder_pb2.ListAdvisorsRequest())).advisors) == 2
    for request in (
        embedder_pb2.ListAdvisorsRequest(page_size=-1),
        embedder_pb2.ListAdvisorsRequest(page_token="invented"),
    ):
        await refused(service.stub.ListAdvisors(request), Code.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_a_reference_comes_with_thumbnail_and_embedding(service: Service) -> None:
    identity = sha256(photograph(11))
    response = await service.stub.GetReference(embedder_pb2.GetReferenceRequest(id=identity))
    assert (response.reference.id, response.reference.advisor) == (identity, "ansel")
    assert response.reference.thumbnail_jpeg.startswith(b"\xff\xd8")
    embedded = await service.stub.Embed(embedder_pb2.EmbedRequest(image=image(photograph(11))))
    assert list(response.embedding.values) == list(embedded.embedding.values)
    assert response.encoder == embedded.encoder
    assert response.release == service.store.current_id()
    other = await service.stub.GetReference(embedder_pb2.GetReferenceRequest(id=identity, advisor="okeefe"))
    assert other.reference.advisor == "okeefe"


@pytest.mark.parametrize(
    ("identity", "advisor", "code", "reason"),
    [
        ("0" * 64, "", Code.NOT_FOUND, "REFERENCE_NOT_FOUND"),
        (sha256(photograph(0)), "okeefe", Code.NOT_FOUND, "REFERENCE_NOT_FOUND"),
        (sha256(photograph(0)), "nobody", Code.NOT_FOUND, "ADVISOR_NOT_FOUND"),
        (sha256(photograph(0)), "Ansel", Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        ("abc", "", Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        ("A" * 64, "", Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    ],
)
async def test_a_reference_that_is_not_there(
    service: Service, identity: str, advisor: str, code: grpc.StatusCode, reason: str
) -> None:
    request = embedder_pb2.GetReferenceRequest(id=identity, advisor=advisor)
    await refused(service.stub.GetReference(request), code, reason)


async def test_a_malformed_advisor_is_named_as_the_field_at_fault(service: Service) -> None:
    request = embedder_pb2.GetReferenceRequest(id=sha256(photograph(0)), advisor="a" * 65)
    for call in (service.search(advisor="An Sel", text="x"), service.stub.GetReference(request)):
        assert (await refused(call, Code.INVALID_ARGUMENT)).field == "advisor"
