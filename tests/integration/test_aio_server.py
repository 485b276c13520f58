"""Requests for methods that nobody serves, and whose names need be no text."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.rpc.channels import channel_options
from services.core.rpc.server import RunningServer
from services.core.settings import ServiceSettings
from tests.fakes.backends import PHOTOGRAPH, FakeComponent, FakeCritic
from tests.http2 import SOON, answer_of
from tests.processes import free_port

NAMES = (b"/mondrian.critic.v1.CriticService/\xff\xfe", b"\xff", b"/x/y", b"/")


@pytest.mark.parametrize("path", NAMES)
async def test_a_method_that_nobody_serves_ends_nothing_but_its_call(
    path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    critic = FakeCritic()
    critic.gate.clear()
    settings = ServiceSettings(health_port=free_port(), drain_s=0)
    async with (
        RunningServer(FakeComponent(critic), settings) as server,
        grpc.aio.insecure_channel(server.address, options=channel_options()) as channel,
    ):
        stub = critic_pb2_grpc.CriticServiceStub(channel)
        request = critic_pb2.CritiqueRequest(advisor="ansel", image=types_pb2.Image(content=PHOTOGRAPH))
        call = stub.Critique(request, timeout=SOON)
        await asyncio.wait_for(critic.entered.wait(), SOON)
        for port in (server.port, settings.health_port, server.port):
            assert b"Method not found!" in await answer_of(port, path)
        critic.gate.set()
        assert (await call).text == critic.text
        assert (await stub.ListAdapters(critic_pb2.ListAdaptersRequest(), timeout=SOON)).model == "fake"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
