"""A real gateway over fake services, all in this process, on free ports of loopback."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc.aio
from mondrian.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.rpc.channels import channel_options
from services.core.rpc.server import RunningServer
from services.core.settings import ServiceSettings
from services.gateway.component import GatewayComponent
from services.gateway.settings import GatewaySettings
from tests.fakes.backends import PHOTOGRAPH, Fake, FakeComponent, FakeCritic, FakeEmbedder, FakeScorer


@dataclass
class System:
    """The gateway's stub, its address, and the fakes behind it."""

    stub: gateway_pb2_grpc.GatewayServiceAsyncStub
    address: str
    embedder: FakeEmbedder
    critic: FakeCritic
    scorer: FakeScorer

    @property
    def fakes(self) -> tuple[FakeEmbedder, FakeCritic, FakeScorer]:
        """All three."""
        return self.embedder, self.critic, self.scorer


def served(fake: Fake, port: int = 0, **settings: Any) -> RunningServer:
    """Returns a server for a fake, an async context manager; calls in flight are cut off when it stops."""
    return RunningServer(FakeComponent(fake), ServiceSettings(port=port, drain_s=0, **settings))


@contextlib.asynccontextmanager
async def gateway_at(settings: GatewaySettings) -> AsyncIterator[tuple[gateway_pb2_grpc.GatewayServiceAsyncStub, str]]:
    """Yields a stub of a gateway in this process, and its address."""
    async with (
        RunningServer(GatewayComponent(settings), settings) as server,
        grpc.aio.insecure_channel(server.address, channel_options()) as channel,
    ):
        yield gateway_pb2_grpc.GatewayServiceStub(channel), server.address


@contextlib.asynccontextmanager
async def system(backends: Mapping[str, Any] | None = None, **settings: Any) -> AsyncIterator[System]:
    """Yields a gateway over three fakes; `settings` are the gateway's, `backends` those of each fake."""
    embedder, critic, scorer = FakeEmbedder(), FakeCritic(), FakeScorer()
    theirs = backends or {}
    async with (
        served(embedder, **theirs) as first,
        served(critic, **theirs) as second,
        served(scorer, **theirs) as third,
    ):
        wanted: dict[str, Any] = {
            "port": 0,
            "drain_s": 0,
            "embedder": first.address,
            "critic": second.address,
            "scorer": third.address,
            **settings,
        }
        async with gateway_at(GatewaySettings(**wanted)) as (stub, address):
            yield System(stub, address, embedder, critic, scorer)


def analyze_request(
    mode: gateway_pb2.Mode.ValueType = gateway_pb2.MODE_COMBINED, advisor: str = "ansel", **fields: Any
) -> gateway_pb2.AnalyzeRequest:
    """Returns a request for the fakes' photograph."""
    image = fields.pop("image", types_pb2.Image(content=PHOTOGRAPH))
    return gateway_pb2.AnalyzeRequest(image=image, advisor=advisor, mode=mode, **fields)
