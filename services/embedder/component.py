"""The embedder as its server sees it: an encoder, and the references of the release that is served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import grpc.aio
from inference import open_inference_pb2, open_inference_pb2_grpc
from mondrian.embedder.v1 import embedder_pb2, embedder_pb2_grpc

from services.core.batching.serving import Serving
from services.embedder.encoder import Encoder, Vector
from services.embedder.engine import EmbeddingEngine
from services.embedder.loading import load
from services.embedder.open_inference import OpenInferenceServicer
from services.embedder.references import References, load_references
from services.embedder.servicer import EmbedderServicer
from services.embedder.settings import EmbedderSettings


class EmbedderComponent(Serving[EmbeddingEngine, References]):
    """A services.core.rpc.server.Component."""

    service_name: Final[str] = embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"].full_name
    further_names: Final = (open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,)

    def __init__(self, settings: EmbedderSettings, make_encoder: Callable[[EmbedderSettings], Encoder] = load) -> None:
        super().__init__()
        self._settings = settings
        self._make_encoder = make_encoder

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicers; until the encoder is loaded they answer UNAVAILABLE."""
        embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(EmbedderServicer(self), server)
        further = OpenInferenceServicer(self, self._settings.max_batch)
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(further, server)

    async def start(self) -> None:
        """Loads the encoder, warms it up and loads the current release.

        Raises:
            ConfigurationError: the encoder or the release cannot be used.
        """
        encoder = await asyncio.to_thread(self._make_encoder, self._settings)
        await self.begin(
            EmbeddingEngine(encoder, self._settings, self._embedding_of),
            self._settings,
            lambda release: load_references(
                release,
                space_id=encoder.space_id,
                encoder_name=encoder.name,
                dimensions=encoder.dimensions,
            ),
        )

    def _embedding_of(self, photograph_id: str) -> Vector | None:
        """Returns the embedding of a photograph that is a reference; None where it is not."""
        references = self.release_or_none()
        return references.embedding_of(photograph_id) if references else None
