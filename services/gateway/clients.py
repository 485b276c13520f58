"""The three services as the gateway calls them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import grpc.aio
from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.scorer.v1 import scorer_pb2

from services.core.tokens import Metadata
from services.gateway.access import Access
from services.gateway.backend import Backend, serialized, wrapped
from services.gateway.modes import CRITIQUE, REFERENCES, SCORES


class EmbedderClient(Backend):
    """Similar references, and the advisors."""

    service = "mondrian.embedder.v1.EmbedderService"

    def __init__(self, address: str, connect_s: float, access: Access) -> None:
        super().__init__(REFERENCES, address, connect_s, access)

    async def search(
        self, request: embedder_pb2.SearchReferencesRequest, photograph: bytes, timeout: float, metadata: Metadata
    ) -> embedder_pb2.SearchReferencesResponse:
        """Returns the references nearest to a photograph (a serialised Image), within `timeout` seconds."""
        body = serialized(request, photograph)
        answer = embedder_pb2.SearchReferencesResponse
        return await self._answer(self._unary("SearchReferences", body, answer, timeout, metadata), timeout)

    async def list_advisors(
        self, request: embedder_pb2.ListAdvisorsRequest, timeout: float, metadata: Metadata = ()
    ) -> embedder_pb2.ListAdvisorsResponse:
        """Returns one page of advisors."""
        answer = embedder_pb2.ListAdvisorsResponse
        return await self._answer(self._unary("ListAdvisors", request, answer, timeout, metadata), timeout)

    async def all_advisors(self, timeout: float, metadata: Metadata = ()) -> list[embedder_pb2.Advisor]:
        """Returns every advisor, page after page, within `timeout` seconds."""
        until = time.monotonic() + timeout
        advisors: list[embedder_pb2.Advisor] = []
        request = embedder_pb2.ListAdvisorsRequest(page_size=200)
        while True:
            answer = await self.list_advisors(request, until - time.monotonic(), metadata)
            advisors.extend(answer.advisors)
            if not answer.next_page_token:
                return advisors
            request.page_token = answer.next_page_token


class CriticClient(Backend):
    """The critique, whole or as it is written, and the adapters."""

    service = "mondrian.critic.v1.CriticService"

    def __init__(self, address: str, connect_s: float, access: Access) -> None:
        super().__init__(CRITIQUE, address, connect_s, access)

    async def critique(
        self, request: critic_pb2.CritiqueRequest, photograph: bytes, timeout: float, metadata: Metadata
    ) -> critic_pb2.CritiqueResponse:
        """Returns the critique of a photograph (a serialised Image), within `timeout` seconds."""
        body = serialized(request, photograph)
        return await self._answer(
            self._unary("Critique", body, critic_pb2.CritiqueResponse, timeout, metadata), timeout
        )

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
        """Returns every adapter, page after page, within `timeout` seconds."""
        until = time.monotonic() + timeout
        adapters: list[critic_pb2.Adapter] = []
        request = critic_pb2.ListAdaptersRequest(page_size=200)
        while True:
            left = until - time.monotonic()
            answer = await self._answer(
                self._unary("ListAdapters", request, critic_pb2.ListAdaptersResponse, left, metadata), left
            )
            adapters.extend(answer.adapters)
            if not answer.next_page_token:
                return adapters
            request.page_token = answer.next_page_token


class ScorerClient(Backend):
    """The scores, and the advisors' distributions."""

    service = "mondrian.scorer.v1.ScorerService"

    def __init__(self, address: str, connect_s: float, access: Access) -> None:
        super().__init__(SCORES, address, connect_s, access)

    async def score(
        self, request: scorer_pb2.ScoreRequest, photograph: bytes, timeout: float, metadata: Metadata
    ) -> scorer_pb2.ScoreResponse:
        """Returns the scores of a photograph (a serialised Image), within `timeout` seconds."""
        body = serialized(request, photograph)
        return await self._answer(self._unary("Score", body, scorer_pb2.ScoreResponse, timeout, metadata), timeout)

    async def profile(self, advisor: str, timeout: float, metadata: Metadata = ()) -> scorer_pb2.GetProfileResponse:
        """Returns the reference distribution of an advisor."""
        request = scorer_pb2.GetProfileRequest(advisor=advisor)
        answer = scorer_pb2.GetProfileResponse
        return await self._answer(self._unary("GetProfile", request, answer, timeout, metadata), timeout)
