"""The events of one analysis, passed from the parts that make them to the one reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from mondrian.gateway.v1 import gateway_pb2

from services.gateway.fanout import Emit

Event = gateway_pb2.StreamAnalyzeResponse

_WAITING: Final = 64
"""Events that may wait for a slow reader; after them the critic is read more slowly too."""


async def events_of(
    answer: Callable[[Emit], Awaitable[gateway_pb2.AnalyzeResponse]],
) -> AsyncGenerator[Event, None]:
    """Yields what `answer` emits, in order, and its result as `completed`; leaving early cancels it.

    Raises:
        MondrianError: what `answer` raised, after the events before it.
    """
    places = asyncio.Semaphore(_WAITING)
    # Bounded by `places`, not by itself: the end must find room even when the reader has left it full.
    waiting: asyncio.Queue[Event | None] = asyncio.Queue()

    async def emit(event: Event) -> None:
        await places.acquire()
        waiting.put_nowait(event)

    async def run() -> gateway_pb2.AnalyzeResponse:
        try:
            return await answer(emit)
        finally:
            waiting.put_nowait(None)

    running = asyncio.create_task(run())
    try:
        while (event := await waiting.get()) is not None:
            yield event
            places.release()
        yield Event(completed=await running)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
