"""The scorer as its server sees it."""

from __future__ import annotations

from typing import Final

import grpc.aio
from mondrian.scorer.v1 import scorer_pb2, scorer_pb2_grpc

from services.scorer.servicer import ScorerServicer
from services.scorer.serving import Serving
from services.scorer.settings import ScorerSettings


class ScorerComponent:
    """A services.core.rpc.server.Component."""

    service_name: Final[str] = scorer_pb2.DESCRIPTOR.services_by_name["ScorerService"].full_name

    def __init__(self, settings: ScorerSettings) -> None:
        self.serving = Serving(settings)

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer; until the measures have run once it answers UNAVAILABLE."""
        scorer_pb2_grpc.add_ScorerServiceServicer_to_server(ScorerServicer(self.serving), server)

    async def start(self) -> None:
        """Loads and warms up; see Serving.load."""
        await self.serving.load()

    def healthy(self) -> bool:
        """Whether the thread of the measures runs."""
        return self.serving.alive

    async def stop(self) -> None:
        """Gives everything back."""
        await self.serving.close()
