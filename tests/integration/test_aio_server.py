"""Requests as no client library sends them: for a method whose name is no text."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.channels import channel_options
from services.core.server import RunningServer
from services.core.settings import ServiceSettings
from tests.fakes.backends import PHOTOGRAPH, FakeComponent, FakeCritic
from tests.processes import free_port

SOON = 60.0
NAMES = (b"/mondrian.critic.v1.CriticService/\xff\xfe", b"\xff", b"/x/y", b"/")


def _frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def _call(path: bytes, stream: int) -> bytes:
    """Returns the frame that begins a call, and ends its request at once."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"x",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    block = b"".join(b"\0" + bytes([len(key)]) + key + bytes([len(each)]) + each for key, each in fields.items())
    return _frame(1, 5, stream, block)


async def answer_of(port: int, path: bytes) -> bytes:
    """Returns the bytes of the answer to a call of the method `path`, as soon as they tell its status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0) + _call(path, 1))
    answer = b""
    while b"grpc-status" not in answer:
        piece = await asyncio.wait_for(reader.read(65_536), SOON)
        assert piece, "the server hung up"
        answer += piece
    writer.close()
    return answer


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
