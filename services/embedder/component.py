"""The embedder as its server sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import grpc.aio
from inference import open_inference_pb2, open_inference_pb2_grpc
from mondrian.embedder.v1 import embedder_pb2, embedder_pb2_grpc

from services.embedder.encoder import Encoder
from services.embedder.loading import load
from services.embedder.open_inference import OpenInferenceServicer
from services.embedder.servicer import EmbedderServicer
from services.embedder.serving import Serving
from services.embedder.settings import EmbedderSettings


class EmbedderComponent:
    """A services.core.rpc.server.Component."""

    service_name: Final[str] = embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"].full_name
    further_names: Final = (open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,)

    def __init__(self, settings: EmbedderSettings, make_encoder: Callable[[EmbedderSettings], Encoder] = load) -> None:
        self.serving = Serving(settings)
        self._make_encoder = make_encoder

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicers; until the encoder is loaded it answers UNAVAILABLE."""
        embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(EmbedderServicer(self.serving), server)
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(OpenInferenceServicer(self.serving), server)

    async def start(self) -> None:
        """Loads and warms up; see Serving.load."""
        await self.serving.load(self._make_encoder)

    def healthy(self) -> bool:
        """Whether the model's thread runs."""
        return self.serving.alive

    async def stop(self) -> None:
        """Gives everything back."""
        await self.serving.close()
