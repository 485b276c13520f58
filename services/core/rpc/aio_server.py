"""A grpc.aio server that survives a call whose method name is not valid UTF-8.

The library decodes the name in the one task that accepts calls, so a single such request, sent before any token is
checked, stops the server from accepting calls for good while the process lives on. Calls of the served methods are
matched by gRPC's core and never get there; for all others no name is needed, since the answer is UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc.aio
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the library has no types

from services.core.rpc.channels import ChannelOptions


class _Server(cygrpc.AioServer):
    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """Returns the next call of a served method; for None a task that answers all other calls until the server
        ends."""
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
