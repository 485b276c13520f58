"""Names and calls that the tests of the gateway share."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any, TypeVar

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


async def events_of(call: AsyncIterable[T]) -> list[T]:
    """Returns everything that a stream sends."""
    return [event async for event in call]


async def next_of(call: Any) -> gateway_pb2.AnalyzeBatchResponse:
    """Returns the next result of a batch."""
    result = await call.read()
    assert isinstance(result, gateway_pb2.AnalyzeBatchResponse)
    return result
