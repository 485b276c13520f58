"""The embedder behind a real server: every rpc, every status of its comments, and swaps under load."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf import json_format
from mondrian.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.advisors import load_advisor
from services.core.channels import channel_options
from services.core.errors import reason_of, rpc_status_of
from services.core.images import ImageLimits, sha256
from services.core.progress import progress
from services.core.releases import ReleaseStore, rollback
from services.core.server import running
from services.embedder.component import EmbedderComponent
from services.embedder.loading import load
from services.embedder.precomputation import precompute
from services.embedder.settings import EmbedderSettings
from tests.fakes.encoder import FakeEncoder
from tests.fakes.open_clip_folder import write_folder
from tests.integration.fields import field_of
from tests.unit.embedder.pictures import advisor_folder, encoded, photograph, picture

Code = grpc.StatusCode


class Service:
    """A served embedder, its store, and a client."""

    def __init__(self, path: Path, encoder: FakeEncoder | None = None, **overrides: object) -> None:
        self.path = path
        self.encoder = encoder or FakeEncoder()
        given = {"port": 0, "data_dir": path, "max_batch": 4, "max_queue": 4, "poll_s": 3600.0, "drain_s": 5.0}
        self.settings = EmbedderSettings.load(**{**given, **overrides})
        self.component = EmbedderComponent(self.settings, lambda settings: self.encoder)
        self.store = ReleaseStore(self.settings.releases_root)
        self.stub: embedder_pb2_grpc.EmbedderServiceAsyncStub

    def precompute(self, advisor: str, seeds: range) -> str:
        """Publishes an advisor with one photograph a seed and returns the release's id."""
        folder = advisor_folder(self.path / "advisors" / advisor, seeds)
        outcome = precompute(
            load_advisor(folder, advisor),
            FakeEncoder(space_id=self.encoder.space_id),
            self.store,
            limits=ImageLimits(),
            index="hnsw",
            report=lambda title, total: progress(title, total, quiet=True),
        )
        return outcome.release.id

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Service]:
        async with (
            running(self.component, self.settings) as address,
            grpc.aio.insecure_channel(address, options=channel_options()) as channel,
        ):
            self.connect(channel)
            yield self

    def connect(self, channel: grpc.aio.Channel) -> None:
        """Makes the client."""
        self.stub = embedder_pb2_grpc.EmbedderServiceStub(channel)

    async def search(self, **fields: Any) -> embedder_pb2.SearchReferencesResponse:
        return await self.stub.SearchReferences(embedder_pb2.SearchReferencesRequest(**fields), timeout=30)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """An embedder that serves ansel (photographs 0 to 11) and okeefe (10 to 13)."""
    service = Service(tmp_path)
    service.precompute("ansel", range(12))
    service.precompute("okeefe", range(10, 14))
    async with service.serve():
        yield service


def image(content: bytes) -> types_pb2.Image:
    return types_pb2.Image(content=content)


async def refused(call: Awaitable[object], code: grpc.StatusCode, reason: str) -> str:
    """Expects a call to end with this code and reason, and returns the sentence."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    status = rpc_status_of(failed.value)
    assert (failed.value.code(), reason_of(status)) == (code, reason)
    assert status.message
    assert "Traceback" not in status.message
    return str(status.message)


# Embed


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


# SearchReferences


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
        "width": 60,
        "height": 40,
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
        sentence = await refused(service.search(**fields), code, reason)
        assert sentence.endswith("."), name
    assert (await service.search(text="still there")).neighbors


# ListAdvisors, GetReference


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
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call
        assert (failed.value.code(), field_of(failed.value)) == (Code.INVALID_ARGUMENT, "advisor")


# Releases


async def test_before_the_first_release_only_embedding_works(tmp_path: Path) -> None:
    async with Service(tmp_path).serve() as service:
        assert (await service.stub.Embed(embedder_pb2.EmbedRequest(text="x"))).embedding.values
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: service.search(text="x"),
            lambda: service.stub.ListAdvisors(embedder_pb2.ListAdvisorsRequest()),
            lambda: service.stub.GetReference(embedder_pb2.GetReferenceRequest(id="0" * 64)),
        ]
        for call in calls:
            await refused(call(), Code.UNAVAILABLE, "NO_RELEASE")
        service.precompute("ansel", range(2))
        assert await service.component.serving.refresh()
        assert len((await service.search(text="x")).neighbors) == 2


async def test_a_damaged_or_foreign_release_is_refused_and_the_old_one_serves_on(service: Service) -> None:
    old = service.store.current_id()
    release = service.precompute("ansel", range(12, 13))
    path = service.store.path_of(release) / "okeefe.hnsw"
    path.chmod(0o644)
    sound = path.read_bytes()
    path.write_bytes(sound[:100] + bytes([sound[100] ^ 1]) + sound[101:])
    assert not await service.component.serving.refresh()
    assert (await service.search(text="x")).release == old
    rollback(service.store, old)
    foreign = Service(service.path, encoder=FakeEncoder(space_id="fake1111fake1111"))
    foreign.precompute("ansel", range(3))
    assert not await service.component.serving.refresh()
    response = await service.search(image=image(photograph(1)))
    assert (response.release, len(response.neighbors)) == (old, 3)


async def test_a_hundred_swaps_under_load_fail_no_request_and_mix_no_releases(service: Service) -> None:
    """Two releases alternate: ansel has 12 references in one and 20 in the other. Every answer is one or the other."""
    small = service.store.current_id()
    large = service.precompute("ansel", range(12, 20))
    assert small is not None
    counts = {small: 12, large: 20}
    answers: list[str] = []
    stop = asyncio.Event()

    async def ask(seed: int) -> None:
        while not stop.is_set():
            response = await service.search(advisor="ansel", image=image(photograph(seed)), top_k=100)
            assert len(response.neighbors) == counts[response.release]
            found = {one.reference.id for one in response.neighbors}
            assert (sha256(photograph(15)) in found) == (response.release == large)
            best = response.neighbors[0]
            if seed < 12:
                assert (best.reference.id, round(best.similarity, 5)) == (sha256(photograph(seed)), 1.0)
            answers.append(response.release)

    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(ask(seed)) for seed in (0, 5, 11, 40)]
        for turn in range(100):
            await asyncio.to_thread(rollback, service.store, large if turn % 2 == 0 else small)
            assert await service.component.serving.refresh()
        stop.set()
    assert all(caller.exception() is None for caller in callers)
    assert len(answers) >= 100
    assert set(answers) == {small, large}


# Load


async def test_when_full_the_caller_is_told_to_come_back(service: Service) -> None:
    service.encoder.gate.clear()
    calls = [
        asyncio.create_task(service.search(advisor="ansel", image=image(photograph(seed)))) for seed in range(100, 108)
    ]
    # Eight are admitted: four in the batch and four waiting.
    while service.component.serving.engine().in_flight < 8:  # noqa: ASYNC110 - the service tells nobody when it is full
        await asyncio.sleep(0)
    extra = service.search(advisor="ansel", image=image(photograph(200)))
    sentence = await refused(extra, Code.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert "try again in" in sentence
    # What needs no encoder is answered all the same.
    assert (await service.search(advisor="ansel", image=image(photograph(2)))).cached
    service.encoder.gate.set()
    assert all(response.neighbors for response in await asyncio.gather(*calls))


async def test_after_a_burst_whose_callers_have_left_at_most_one_batch_is_computed(service: Service) -> None:
    service.encoder.batches.clear()
    service.encoder.gate.clear()
    calls = [service.stub.Embed(embedder_pb2.EmbedRequest(image=image(photograph(seed)))) for seed in range(300, 308)]
    engine = service.component.serving.engine()
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


# The real encoder


@pytest.mark.parametrize("engine", ["torch", "openvino"])
async def test_a_real_open_clip_folder_is_served(tmp_path: Path, engine: str) -> None:
    """precompute by its command, then the server, both with the same folder of random weights."""
    from services.embedder import precompute as command

    model = write_folder(tmp_path / "model")
    folder = advisor_folder(tmp_path / "ansel", range(5))
    overrides = {"model_path": model, "dtype": "float32", "device": "cpu", "torch_threads": 1, "engine": engine}
    settings = EmbedderSettings.load(port=0, data_dir=tmp_path / "data", **overrides)
    arguments = ["--advisor-dir", str(folder), "--advisor-id", "ansel", "--data-dir", str(settings.data_dir), "--quiet"]
    assert command.run(arguments, make_encoder=lambda _: load(settings)) == 0
    async with (
        running(EmbedderComponent(settings), settings) as address,
        grpc.aio.insecure_channel(address, options=channel_options()) as channel,
    ):
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        brighter = picture(3).point(lambda value: min(255, round(value * 1.02)))
        request = embedder_pb2.SearchReferencesRequest(advisor="ansel", image=image(encoded(brighter)))
        response = await stub.SearchReferences(request)
        assert not response.cached
        assert response.neighbors[0].reference.file_name == "003.png"
        assert response.neighbors[0].similarity > 0.99
        by_text = await stub.SearchReferences(embedder_pb2.SearchReferencesRequest(text="a ridge", top_k=5))
        assert len(by_text.neighbors) == 5
