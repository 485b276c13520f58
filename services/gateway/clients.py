"""The three services as the gateway calls them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import grpc.aio
from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.scorer.v1 import scorer_pb2

from services.core.rpc.tokens import Metadata
from services.gateway.backend import Backend
from services.gateway.modes import CRITIQUE, REFERENCES, SCORES
from services.gateway.wire import serialized, wrapped


class EmbedderClient(Backend):
    """Similar references, and the advisors."""

    service = "mondrian.embedder.v1.EmbedderService"
    part = REFERENCES

    async def search(
        self, request: embedder_pb2.SearchReferencesRequest, photograph: bytes, timeout: float, metadata: Metadata
    ) -> embedder_pb2.SearchReferencesResponse:
        """Returns the references nearest to a photograph (a serialised Image), within `timeout` seconds."""
        body = serialized(request, photograph)
        return await self._call("SearchReferences", body, embedder_pb2.SearchReferencesResponse, timeout, metadata)

    async def list_advisors(
        self, request: embedder_pb2.ListAdvisorsRequest, timeout: float, metadata: Metadata
    ) -> embedder_pb2.ListAdvisorsResponse:
        """Returns one page of advisors."""
        return await self._call("ListAdvisors", request, embedder_pb2.ListAdvisorsResponse, timeout, metadata)

    async def all_advisors(self, timeout: float, metadata: Metadata = ()) -> list[embedder_pb2.Advisor]:
        """Returns every advisor, within `timeout` seconds."""
        request, response = embedder_pb2.ListAdvisorsRequest(), embedder_pb2.ListAdvisorsResponse
        pages = await self._pages("ListAdvisors", request, response, timeout, metadata)
        return [advisor for page in pages for advisor in page.advisors]


class CriticClient(Backend):
    """The critique, whole or as it is written, and the adapters."""

    service = "mondrian.critic.v1.CriticService"
    part = CRITIQUE

    async def critique(
        self, request: critic_pb2.CritiqueRequest, photograph: bytes, timeout: float, metadata: Metadata
    ) -> critic_pb2.CritiqueResponse:
        """Returns the critique of a photograph (a serialised Image), within `timeout` seconds."""
        body = serialized(request, photograph)
        return await self._call("Critique", body, critic_pb2.CritiqueResponse, timeout, metadata)

    async def stream(
        self, request: critic_pb2.CritiqueRequest, photograph: bytes, timeout: float, metadata: Metadata
    ) -> AsyncGenerator[critic_pb2.StreamCritiqueResponse, None]:
        """Yields the events of a critique; leaving the iteration early stops the generation."""
        body = wrapped(critic_pb2.StreamCritiqueRequest.REQUEST_FIELD_NUMBER, serialized(request, photograph))
        call = self._streamed("StreamCritique", body, critic_pb2.StreamCritiqueResponse, timeout, metadata)
        try:
            async for event in call:
                yield self._readable(event)
            self._reached(True)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error, timeout) from error
        except asyncio.CancelledError as error:
            raise self._cancelled(error) from None
        finally:
            call.cancel()

    async def all_adapters(self, timeout: float, metadata: Metadata = ()) -> list[critic_pb2.Adapter]:
        """Returns every adapter, within `timeout` seconds."""
        request, response = critic_pb2.ListAdaptersRequest(), critic_pb2.ListAdaptersResponse
        pages = await self._pages("ListAdapters", request, response, timeout, metadata)
        return [adapter for page in pages for adapter in page.adapters]


class ScorerClient(Backend):
    """The scores, and the advisors' distributions."""

    service = "mondrian.scorer.v1.ScorerService"
    part = SCORES

    async def score(
        self, request: scorer_pb2.ScoreRequest, photograph: bytes, timeout: float, metadata: Metadata
    ) -> scorer_pb2.ScoreResponse:
        """Returns the scores of a photograph (a serialised Image), within `timeout` seconds."""
        body = serialized(request, photograph)
        return await self._call("Score", body, scorer_pb2.ScoreResponse, timeout, metadata)

    async def profile(self, advisor: str, timeout: float, metadata: Metadata = ()) -> scorer_pb2.GetProfileResponse:
        """Returns the reference distribution of an advisor."""
        request = scorer_pb2.GetProfileRequest(advisor=advisor)
        return await self._call("GetProfile", request, scorer_pb2.GetProfileResponse, timeout, metadata)


@dataclass(frozen=True)
class Backends:
    """The three services."""

    embedder: EmbedderClient
    critic: CriticClient
    scorer: ScorerClient

    def each(self) -> tuple[EmbedderClient, CriticClient, ScorerClient]:
        """Returns them in the order of the Part enum."""
        return self.embedder, self.critic, self.scorer
