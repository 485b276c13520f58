"""A sharded Qwen3-VL folder in the published format, adapters, a critic that serves them, and a real client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from mondrian.critic.v1 import critic_pb2_grpc

from services.core.rpc.server import RunningServer
from services.critic import adapter_format
from services.critic.adapter_format import Base
from services.critic.component import CriticComponent
from services.critic.loading import load_model
from services.critic.settings import CriticSettings
from tests.fakes.critic import tiny_model_folder
from tests.integration.critic.calls import settings_of

if TYPE_CHECKING:
    from mondrian.critic.v1.critic_pb2_grpc import CriticServiceAsyncStub as Stub


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny-vl", max_shard_size="200KB", ends=False)


@pytest.fixture(scope="session")
def base(folder: Path) -> Base:
    model = load_model(CriticSettings(model_path=folder, device="cpu", torch_threads=1))
    return adapter_format.base_of(model.network, name=model.name, fingerprint=model.fingerprint)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(folder: Path, base: Base, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    """One server for all tests that leave it as it was."""
    settings = settings_of(folder, base, tmp_path_factory.mktemp("served") / "adapters")
    async with RunningServer(CriticComponent(settings), settings) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(server: RunningServer) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield critic_pb2_grpc.CriticServiceStub(channel)


@pytest_asyncio.fixture(loop_scope="module")
async def own_server(folder: Path, base: Base, tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A server for one test alone."""
    settings = settings_of(folder, base, tmp_path / "adapters")
    async with RunningServer(CriticComponent(settings), settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def own_stub(own_server: RunningServer) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(own_server.address) as channel:
        yield critic_pb2_grpc.CriticServiceStub(channel)
