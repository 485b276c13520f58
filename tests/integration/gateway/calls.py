"""Names and calls that the tests of the gateway share."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterable, Awaitable
from typing import Any, TypeVar

import grpc.aio
import pytest
from mondrian.gateway.v1 import gateway_pb2

T = TypeVar("T")

CLIP, LORA = gateway_pb2.MODE_CLIP, gateway_pb2.MODE_LORA
DIMENSIONAL, COMBINED = gateway_pb2.MODE_DIMENSIONAL, gateway_pb2.MODE_COMBINED
REFERENCES, CRITIQUE, SCORES = gateway_pb2.PART_REFERENCES, gateway_pb2.PART_CRITIQUE, gateway_pb2.PART_SCORES
# Long enough for a loaded machine; nothing waits for it to pass.
SOON = 60.0
PARTS_OF = {
    CLIP: [REFERENCES],
    LORA: [CRITIQUE],
    DIMENSIONAL: [SCORES],
    COMBINED: [REFERENCES, CRITIQUE, SCORES],
}


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """Returns the error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def events_of(call: AsyncIterable[T]) -> list[T]:
    """Returns everything that a stream sends."""
    return [event async for event in call]


async def next_of(call: Any) -> gateway_pb2.AnalyzeBatchResponse:
    """Returns the next result of a batch."""
    result = await call.read()
    assert isinstance(result, gateway_pb2.AnalyzeBatchResponse)
    return result


def free_port() -> int:
    """Returns a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
