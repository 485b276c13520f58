"""GRPCInferenceService: the Open Inference Protocol beside our own contract, answered by the same engine."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Sequence

from inference import open_inference_pb2 as inference_pb2
from inference import open_inference_pb2_grpc as inference_pb2_grpc

from services.core.batching.serving import Serving
from services.core.errors import InvalidImage, ModelNotFound
from services.core.rpc.deadlines import Context, deadline_of
from services.embedder import tensors
from services.embedder.encoder import Encoder, Vector
from services.embedder.engine import EmbeddingEngine
from services.embedder.references import References

PLATFORM = "mondrian_clip"


class OpenInferenceServicer(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Offers the encoder as the one model: its name is the model's, its space id the version.

    One request may hold `max_batch` photographs: what the encoder runs at once.
    """

    def __init__(self, serving: Serving[EmbeddingEngine, References], max_batch: int) -> None:
        self._serving = serving
        self._max_batch = max_batch

    async def ServerLive(
        self, request: inference_pb2.ServerLiveRequest, context: Context
    ) -> inference_pb2.ServerLiveResponse:
        """Returns that the process answers."""
        return inference_pb2.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: inference_pb2.ServerReadyRequest, context: Context
    ) -> inference_pb2.ServerReadyResponse:
        """Returns whether the encoder is loaded."""
        return inference_pb2.ServerReadyResponse(ready=self._serving.ready)

    async def ModelReady(
        self, request: inference_pb2.ModelReadyRequest, context: Context
    ) -> inference_pb2.ModelReadyResponse:
        """Returns whether the encoder is loaded and is the model that is asked for."""
        return inference_pb2.ModelReadyResponse(ready=self._serving.ready and self._has(request.name, request.version))

    async def ServerMetadata(
        self, request: inference_pb2.ServerMetadataRequest, context: Context
    ) -> inference_pb2.ServerMetadataResponse:
        """Returns name and version of the service."""
        return inference_pb2.ServerMetadataResponse(
            name="mondrian-embedder", version=importlib.metadata.version("mondrian")
        )

    async def ModelMetadata(
        self, request: inference_pb2.ModelMetadataRequest, context: Context
    ) -> inference_pb2.ModelMetadataResponse:
        """Returns what the encoder takes and gives."""
        self._require(request.name or self._name, request.version)
        return inference_pb2.ModelMetadataResponse(
            name=self._name,
            versions=[self._version],
            platform=PLATFORM,
            inputs=[tensors.input_metadata()],
            outputs=[tensors.output_metadata(self._encoder.dimensions)],
        )

    async def ModelInfer(
        self, request: inference_pb2.ModelInferRequest, context: Context
    ) -> inference_pb2.ModelInferResponse:
        """Returns the embeddings of the request's photographs: all of them, or an error."""
        self._require(request.model_name, request.model_version)
        contents = tensors.photographs(request, self._max_batch)
        vectors = await self._embedded(contents, deadline_of(context))
        return tensors.response(request, self._name, self._version, vectors)

    async def _embedded(self, contents: Sequence[bytes], deadline: float | None) -> list[Vector]:
        """Returns the embeddings of photographs; what is under way is given up with the first that fails."""
        engine = self._serving.engine()

        async def embedded(number: int, content: bytes) -> Vector:
            try:
                return (await engine.photograph(content, deadline=deadline)).result
            except InvalidImage as error:
                if len(contents) == 1:
                    raise
                # One bad photograph of many is of no use to its sender without its number.
                raise InvalidImage(
                    f"Photograph {number} of {len(contents)} cannot be used: {error.message}", reason=error.reason
                ) from error

        tasks = [asyncio.create_task(embedded(number, content)) for number, content in enumerate(contents, 1)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _encoder(self) -> Encoder:
        return self._serving.engine().encoder

    @property
    def _name(self) -> str:
        return self._encoder.name

    @property
    def _version(self) -> str:
        return self._encoder.space_id

    def _has(self, name: str, version: str) -> bool:
        return name == self._name and version in ("", self._version)

    def _require(self, name: str, version: str) -> None:
        if not self._has(name, version):
            asked = f"{name[:80]!r}" + (f" version {version[:40]!r}" if version else "")
            raise ModelNotFound(
                f"There is no model {asked}; this service has {self._name!r}, version {self._version!r}."
            )
