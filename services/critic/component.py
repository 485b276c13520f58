"""The critic as its server sees it."""

from __future__ import annotations

from typing import Final

import grpc.aio
from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc

from services.critic.servicer import CriticServicer
from services.critic.serving import Serving
from services.critic.settings import CriticSettings


class CriticComponent:
    """A services.core.rpc.server.Component."""

    service_name: Final[str] = critic_pb2.DESCRIPTOR.services_by_name["CriticService"].full_name

    def __init__(self, settings: CriticSettings) -> None:
        self.serving = Serving(settings)
        self._settings = settings

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer; until the model is loaded it answers UNAVAILABLE."""
        critic_pb2_grpc.add_CriticServiceServicer_to_server(CriticServicer(self.serving, self._settings), server)

    async def start(self) -> None:
        """Loads and warms up; see Serving.load."""
        await self.serving.load()

    def healthy(self) -> bool:
        """Whether the engine's thread runs and makes progress."""
        return self.serving.alive

    async def stop(self) -> None:
        """Gives everything back."""
        await self.serving.close()
