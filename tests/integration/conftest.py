"""What every test over the wire shares, and a service without a model with a channel to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest

from services.core.rpc.channels import channel_options
from services.core.rpc.server import running
from services.core.settings import ServiceSettings
from services.gateway import directory, fanout
from tests.fakes.toy import Toy


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the gateway wait for an advisor's name as long as a busy machine takes to bring it."""
    monkeypatch.setattr(fanout, "_NAME_GRACE_S", 60.0)
    monkeypatch.setattr(directory, "_TIMEOUT_S", 60.0)


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
async def channel(toy: Toy) -> AsyncIterator[grpc.aio.Channel]:
    settings = ServiceSettings.load(drain_s=5)
    async with (
        running(toy, settings) as address,
        grpc.aio.insecure_channel(address, options=channel_options()) as opened,
    ):
        yield opened
        toy.servicer.release.set()
