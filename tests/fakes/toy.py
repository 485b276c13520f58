"""A service without a model, which answers when it is told to, or fails as it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc

NAME = "mondrian.critic.v1.CriticService"


class Scripted(critic_pb2_grpc.CriticServiceServicer):
    """Raises what it is told to, and notices when a stream ends."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.closed = asyncio.Event()
        self.request: object = None

    async def Critique(self, request: critic_pb2.CritiqueRequest, context: object) -> critic_pb2.CritiqueResponse:
        self.request = request
        if self.error is not None:
            raise self.error
        self.entered.set()
        await self.release.wait()
        return critic_pb2.CritiqueResponse(text="done")

    async def StreamCritique(
        self, request: critic_pb2.StreamCritiqueRequest, context: object
    ) -> AsyncIterator[critic_pb2.StreamCritiqueResponse]:
        self.request = request
        self.entered.set()
        try:
            yield critic_pb2.StreamCritiqueResponse(started=critic_pb2.Started())
            if self.error is not None:
                raise self.error
            await self.release.wait()
        finally:
            self.closed.set()

    async def ListAdapters(
        self, request: critic_pb2.ListAdaptersRequest, context: object
    ) -> critic_pb2.ListAdaptersResponse:
        return critic_pb2.ListAdaptersResponse()


class Toy:
    """A component without a model."""

    service_name = NAME

    def __init__(self) -> None:
        self.servicer = Scripted()
        self.alive = True
        self.stopped = False

    def register(self, server: grpc.aio.Server) -> None:
        critic_pb2_grpc.add_CriticServiceServicer_to_server(self.servicer, server)

    async def start(self) -> None:
        pass

    def healthy(self) -> bool:
        return self.alive

    async def stop(self) -> None:
        self.stopped = True
