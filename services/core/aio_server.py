"""A grpc.aio server that goes on where it is asked for a method whose name is no text.

The library's own ends there: it decodes the name in the one task that takes the calls of all clients, so that a single
request of anybody, before any token is looked at, closes the port for good while the process lives on. The methods that
are served never take that way, since the core tells them apart itself. Of all others no name is needed: the answer is
UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc.aio
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the library has no types

from services.core.channels import ChannelOptions


class _Server(cygrpc.AioServer):
    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """Returns the next call of a method that is served; for None what ends with the server alone."""
        if method is None:
            return asyncio.ensure_future(self._refuse_unknown())
        call: asyncio.Future[Any] = super()._make_request_call_future(method)
        return call

    async def _refuse_unknown(self) -> None:
        loop = asyncio.get_running_loop()
        nothing = cygrpc._MethodResolver([], {})
        answering: set[asyncio.Task[None]] = set()
        while True:
            call = await self._request_call()
            refusal = cygrpc._handle_rpc("unknown", nothing, (), call, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(refusal, call, loop, "unknown"))
            answering.add(task)
            task.add_done_callback(answering.discard)


def make_server(interceptors: Sequence[grpc.aio.ServerInterceptor], options: ChannelOptions) -> grpc.aio.Server:
    """Returns a server without a port; it serves what is added to it by name, as generated stubs do."""
    theirs, cygrpc.AioServer = cygrpc.AioServer, _Server
    try:
        return grpc.aio.server(interceptors=list(interceptors), options=options)
    finally:
        cygrpc.AioServer = theirs
