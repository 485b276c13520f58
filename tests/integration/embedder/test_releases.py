"""Releases behind the server: damaged ones are refused, and swaps under load fail nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from mondrian.embedder.v1 import embedder_pb2

from services.core.images.reading import sha256
from services.core.releases import rollback
from tests.fakes.encoder import FakeEncoder
from tests.integration.embedder.calls import Code, Service, image
from tests.integration.refusals import refused
from tests.pictures import photograph


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
        assert await service.component.refresh()
        assert len((await service.search(text="x")).neighbors) == 2


async def test_a_damaged_or_foreign_release_is_refused_and_the_old_one_serves_on(service: Service) -> None:
    old = service.store.current_id()
    release = service.precompute("ansel", range(12, 13))
    path = service.store.path_of(release) / "okeefe.hnsw"
    path.chmod(0o644)
    sound = path.read_bytes()
    path.write_bytes(sound[:100] + bytes([sound[100] ^ 1]) + sound[101:])
    assert not await service.component.refresh()
    assert (await service.search(text="x")).release == old
    rollback(service.store, old)
    foreign = Service(service.path, encoder=FakeEncoder(space_id="fake1111fake1111"))
    foreign.precompute("ansel", range(3))
    assert not await service.component.refresh()
    response = await service.search(image=image(photograph(1)))
    assert (response.release, len(response.neighbors)) == (old, 3)


async def test_a_hundred_swaps_under_load_fail_no_request_and_mix_no_releases(service: Service) -> None:
    """Two releases alternate: ansel has 12 references in one and 20 in the other. Every answer is one or the other."""
    small = service.store.current_id()
    large = service.precompute("ansel", range(12, 20))
    assert small is not None
    counts = {small: 12, large: 20}
    answers: list[str] = []
    answered, stop = asyncio.Event(), asyncio.Event()

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
            answered.set()

    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(ask(seed)) for seed in (0, 5, 11, 40)]
        for turn in range(100):
            release = large if turn % 2 == 0 else small
            await asyncio.to_thread(rollback, service.store, release)
            assert await service.component.refresh()
            # The callers meet every release, however fast the swaps are.
            while answers[-1:] != [release]:
                answered.clear()
                await answered.wait()
        stop.set()
    assert all(caller.exception() is None for caller in callers)
    assert len(answers) >= 100
    assert set(answers) == {small, large}
