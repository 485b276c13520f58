"""Many photographs over one call: a bounded number in flight, results as they are ready, one status an item."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from mondrian.gateway.v1 import gateway_pb2

from services.core.batching.byte_budget import ByteBudget
from services.core.errors import Draining, InvalidArgument, MondrianError, in_contract, internal_status, status_of
from services.gateway.modes import MAX_KEY_CHARS

log = logging.getLogger("mondrian.gateway")

Analyze = Callable[[gateway_pb2.AnalyzeRequest], Awaitable[gateway_pb2.AnalyzeResponse]]


class Bulk:
    """Answers a stream of requests by `analyze`, at most `in_flight` at once, until `leaving` is set.

    All streams share the `budget`: where it has no room for a request, its stream is not read until there is.
    """

    def __init__(self, analyze: Analyze, in_flight: int, budget: ByteBudget, leaving: asyncio.Event) -> None:
        self._analyze = analyze
        self._budget = budget
        self._leaving = leaving
        # A place is held from before a request is read until its result is written: neither a client that only
        # sends nor one that does not read can fill the gateway's memory.
        self._places = asyncio.Semaphore(in_flight)
        self._ready: asyncio.Queue[gateway_pb2.AnalyzeBatchResponse | None] = asyncio.Queue()

    async def results(
        self, requests: AsyncIterator[gateway_pb2.AnalyzeBatchRequest]
    ) -> AsyncGenerator[gateway_pb2.AnalyzeBatchResponse, None]:
        """Yields one result a request, in the order in which they are ready.

        Raises:
            Draining: the process is leaving; every request that was read has its result.
            InvalidArgument: a request is no message; what was in flight is given up.
        """
        reading = asyncio.create_task(self._read(requests))
        try:
            while (result := await self._ready.get()) is not None:
                yield result
                self._places.release()
            await reading
            if self._leaving.is_set():
                raise Draining(
                    "The gateway is leaving: the results so far stand; send the other photographs again in a new call."
                )
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[gateway_pb2.AnalyzeBatchRequest]) -> None:
        try:
            # Leaving the group early, by a cancelled call or a broken stream, cancels what is in flight.
            reading = contextlib.aclosing(self._until_leaving(requests))
            async with asyncio.TaskGroup() as group, reading as each:
                await self._places.acquire()
                async for request in each:
                    size = len(request.request.image.content)
                    await self._budget.acquire(size)
                    # Given back whatever becomes of the item, even before it has begun.
                    item = group.create_task(self._item(request))
                    item.add_done_callback(functools.partial(self._make_room, size))
                    await self._places.acquire()
        except ExceptionGroup as broken:
            # Items never raise, so it can only be what ended the reading: a request that is not a message.
            raise broken.exceptions[0] from None
        finally:
            self._ready.put_nowait(None)

    async def _until_leaving(
        self, requests: AsyncIterator[gateway_pb2.AnalyzeBatchRequest]
    ) -> AsyncGenerator[gateway_pb2.AnalyzeBatchRequest, None]:
        # A batch may go on for hours; a process that is draining cannot wait until its client has no more.
        leaving = asyncio.ensure_future(self._leaving.wait())
        reading: asyncio.Future[gateway_pb2.AnalyzeBatchRequest | None] | None = None
        try:
            while True:
                reading = asyncio.ensure_future(anext(requests, None))
                await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not reading.done() or (request := reading.result()) is None:
                    return
                yield request
        finally:
            leaving.cancel()
            if reading is not None:
                reading.cancel()

    def _make_room(self, size: int, item: asyncio.Task[None]) -> None:
        self._budget.release(size)

    async def _item(self, request: gateway_pb2.AnalyzeBatchRequest) -> None:
        self._ready.put_nowait(await self._result(request))

    async def _result(self, request: gateway_pb2.AnalyzeBatchRequest) -> gateway_pb2.AnalyzeBatchResponse:
        key = request.key[:MAX_KEY_CHARS]
        try:
            if len(request.key) > MAX_KEY_CHARS:
                raise InvalidArgument(f"A key has at most {MAX_KEY_CHARS} characters.", field="key")
            response = await self._analyze(request.request)
            return gateway_pb2.AnalyzeBatchResponse(key=key, response=response)
        except MondrianError as error:
            return gateway_pb2.AnalyzeBatchResponse(key=key, status=status_of(error))
        except Exception:
            # One item's fault ends that item, not the thousands around it.
            request_id = uuid.uuid4().hex
            log.exception("an item of a batch failed under request id %s", request_id)
            fault = in_contract(internal_status(request_id))
            return gateway_pb2.AnalyzeBatchResponse(key=key, status=fault)
