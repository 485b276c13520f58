"""A served embedder for the tests, and what they ask of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from mondrian.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.advisors import load_advisor
from services.core.commands.progress import progress
from services.core.errors import reason_of, rpc_status_of
from services.core.images.reading import ImageLimits
from services.core.releases import ReleaseStore
from services.core.rpc.channels import channel_options
from services.core.rpc.server import running
from services.embedder.component import EmbedderComponent
from services.embedder.precomputation import precompute
from services.embedder.settings import EmbedderSettings
from tests.fakes.encoder import FakeEncoder
from tests.pictures import advisor_folder

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
