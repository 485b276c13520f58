"""The three services without a model: the same contract, scripted answers, and doors that a test opens.

Each fake is served by the real server of services.core, so that health, interceptor and status details are the real
ones. Nothing here waits for time: a closed `gate` holds every call until the test opens it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc.aio
from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc
from mondrian.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from mondrian.scorer.v1 import scorer_pb2, scorer_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.errors import AdvisorNotFound, InvalidImage, ReferenceNotFound
from services.core.rpc.pages import page

Context = grpc.aio.ServicerContext[Any, Any]

PHOTOGRAPH: Final = b"\xff\xd8\xff" + bytes(range(256)) * 4
"""What the fakes take for a photograph: the first bytes of a JPEG, and something behind them."""
DIMENSIONS: Final = tuple(value for value in types_pb2.Dimension.values() if value)
_TITLES: Final = ("Moon over the ridge", "Lake at noon", "Dunes, late light")
_SCORES: Final = (7.2, 4.1, 8.0, 6.4, 6.6, 5.0, 7.4, 6.0)


class Scripted:
    """What every fake does before it answers: notes the request, waits at its gate, fails as it was told."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        """Every request that came in."""
        self.request_ids: list[str] = []
        """The x-request-id of each."""
        self.time_left: list[float | None] = []
        """The seconds that each had left of its deadline."""
        self.entered = asyncio.Event()
        """Set when a request is in."""
        self.gate = asyncio.Event()
        """Requests wait until it is set; open at first."""
        self.cancelled = asyncio.Event()
        """Set when a request was cancelled at the gate."""
        self.failure: Exception | None = None
        """Ends every call, while it is set."""
        self.failures: deque[Exception] = deque()
        """Each ends one call, first come first served."""
        self.in_flight = 0
        self.most_in_flight = 0
        self.remember = True
        """Whether requests are kept; a load of them would fill the memory."""
        self.delay_s = 0.0
        """How long an answer takes; for load generators alone, tests use the gate."""
        self.gate.set()

    async def turn(self, request: Any, context: Context) -> None:
        """Lets one request through."""
        if self.remember:
            self.requests.append(request)
            metadata = context.invocation_metadata() or ()
            self.request_ids += [str(value) for key, value in metadata if key == "x-request-id"]
            self.time_left.append(context.time_remaining())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.entered.set()
        try:
            await self.gate.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.in_flight -= 1
        if self.failures:
            raise self.failures.popleft()
        if self.failure is not None:
            raise self.failure


def looked_at(image: types_pb2.Image) -> None:
    """Refuses what does not begin as a JPEG does."""
    if not image.content.startswith(PHOTOGRAPH[:3]):
        raise InvalidImage("The photograph cannot be decoded; send a JPEG, PNG or WebP file.", field="image.content")


def reference(advisor: str, title: str, **fields: Any) -> types_pb2.Reference:
    """Returns a reference whose id follows from advisor and title."""
    identity = hashlib.sha256(f"{advisor}/{title}".encode()).hexdigest()
    return types_pb2.Reference(id=identity, advisor=advisor, title=title, width=640, height=480, **fields)


class FakeEmbedder(Scripted, embedder_pb2_grpc.EmbedderServiceServicer):
    """Knows `advisors`; finds the same three references for every photograph."""

    service_name = "mondrian.embedder.v1.EmbedderService"

    def __init__(self) -> None:
        super().__init__()
        self.advisors = [
            embedder_pb2.Advisor(id="ansel", name="Ansel Sample", reference_count=26),
            embedder_pb2.Advisor(id="okeefe", name="Georgia Sample", reference_count=24),
        ]
        self.listing = asyncio.Event()
        """Listings wait until it is set; open at first."""
        self.listing.set()
        self.listing_time_left: list[float | None] = []
        """The seconds that each listing had left of its deadline."""

    async def SearchReferences(
        self, request: embedder_pb2.SearchReferencesRequest, context: Context
    ) -> embedder_pb2.SearchReferencesResponse:
        """Returns top_k neighbors."""
        await self.turn(request, context)
        looked_at(request.image)
        if request.advisor not in {advisor.id for advisor in self.advisors}:
            raise AdvisorNotFound(f"There is no advisor '{request.advisor}' in the release.")
        response = embedder_pb2.SearchReferencesResponse(encoder="fake@0", release="r1")
        for rank, title in enumerate(_TITLES[: request.top_k or 3]):
            found = reference(request.advisor, title, year=1941 + rank, significance="It holds every tone.")
            if request.include_thumbnails:
                found.thumbnail_jpeg = PHOTOGRAPH
            response.neighbors.add(reference=found, similarity=0.83 - 0.12 * rank)
        return response

    async def Embed(self, request: embedder_pb2.EmbedRequest, context: Context) -> embedder_pb2.EmbedResponse:
        """Returns the same direction for everything."""
        await self.turn(request, context)
        return embedder_pb2.EmbedResponse(embedding=types_pb2.Embedding(values=[1.0] + [0.0] * 511), encoder="fake@0")

    async def GetReference(
        self, request: embedder_pb2.GetReferenceRequest, context: Context
    ) -> embedder_pb2.GetReferenceResponse:
        """Returns the reference of that id."""
        for advisor in self.advisors:
            for title in _TITLES:
                found = reference(advisor.id, title, thumbnail_jpeg=PHOTOGRAPH)
                if found.id == request.id and request.advisor in ("", advisor.id):
                    return embedder_pb2.GetReferenceResponse(reference=found, encoder="fake@0", release="r1")
        raise ReferenceNotFound(f"There is no reference {request.id}.")

    async def ListAdvisors(
        self, request: embedder_pb2.ListAdvisorsRequest, context: Context
    ) -> embedder_pb2.ListAdvisorsResponse:
        """Returns a page of `advisors`."""
        self.listing_time_left.append(context.time_remaining())
        await self.listing.wait()
        if self.failure is not None:
            raise self.failure
        chosen, token = page(self.advisors, request.page_size, request.page_token, lambda advisor: advisor.id)
        return embedder_pb2.ListAdvisorsResponse(advisors=chosen, next_page_token=token, release="r1")


class FakeCritic(Scripted, critic_pb2_grpc.CriticServiceServicer):
    """Writes `text`; has an adapter for each of `adapters`, and falls back without one."""

    service_name = "mondrian.critic.v1.CriticService"

    def __init__(self) -> None:
        super().__init__()
        self.adapters = {"ansel": critic_pb2.ADAPTER_STATE_READY, "okeefe": critic_pb2.ADAPTER_STATE_READY}
        self.text = "The ridge leads the eye, approx. to the moon. The lower third is empty. Wait for the light."
        self.sections: critic_pb2.Sections | None = None
        """By section, where the text is divided."""
        self.between: Callable[[int], Any] | None = None
        """Awaited before each piece of a stream, with its number."""

    def _authorship(self, advisor: str) -> critic_pb2.Authorship:
        if self.adapters.get(advisor) == critic_pb2.ADAPTER_STATE_READY:
            return critic_pb2.Authorship(model="fake", adapter=advisor, adapter_revision="0" * 12)
        return critic_pb2.Authorship(
            model="fake", fell_back=True, fallback_reason=f"There is no adapter for '{advisor}'."
        )

    def _completion(self) -> critic_pb2.Completion:
        return critic_pb2.Completion(
            finish_reason=critic_pb2.FINISH_REASON_STOP, completion_tokens=len(self.text.split())
        )

    def _sections(self) -> critic_pb2.Sections:
        return self.sections or critic_pb2.Sections(overview=self.text, undivided=True)

    async def Critique(self, request: critic_pb2.CritiqueRequest, context: Context) -> critic_pb2.CritiqueResponse:
        """Returns `text`."""
        await self.turn(request, context)
        looked_at(request.image)
        return critic_pb2.CritiqueResponse(
            text=self.text,
            authorship=self._authorship(request.advisor),
            completion=self._completion(),
            sections=self._sections(),
        )

    async def StreamCritique(
        self, request: critic_pb2.StreamCritiqueRequest, context: Context
    ) -> AsyncIterator[critic_pb2.StreamCritiqueResponse]:
        """Yields `text` word by word."""
        await self.turn(request.request, context)
        looked_at(request.request.image)
        started = critic_pb2.Started(authorship=self._authorship(request.request.advisor))
        yield critic_pb2.StreamCritiqueResponse(started=started)
        try:
            for number, word in enumerate(self.text.split(" ")):
                if self.between is not None:
                    await self.between(number)
                delta = critic_pb2.Delta(text=word if number == 0 else f" {word}")
                yield critic_pb2.StreamCritiqueResponse(delta=delta)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise
        yield critic_pb2.StreamCritiqueResponse(
            completed=critic_pb2.Completed(completion=self._completion(), sections=self._sections())
        )

    async def ListAdapters(
        self, request: critic_pb2.ListAdaptersRequest, context: Context
    ) -> critic_pb2.ListAdaptersResponse:
        """Returns a page of `adapters`."""
        if self.failure is not None:
            raise self.failure
        adapters = [critic_pb2.Adapter(name=name, state=state) for name, state in sorted(self.adapters.items())]
        chosen, token = page(adapters, request.page_size, request.page_token, lambda adapter: adapter.name)
        return critic_pb2.ListAdaptersResponse(adapters=chosen, next_page_token=token, model="fake")


class FakeScorer(Scripted, scorer_pb2_grpc.ScorerServiceServicer):
    """Gives every photograph the same eight scores; has a profile of each of `profiles`."""

    service_name = "mondrian.scorer.v1.ScorerService"

    def __init__(self) -> None:
        super().__init__()
        self.profiles = {"ansel", "okeefe"}

    async def Score(self, request: scorer_pb2.ScoreRequest, context: Context) -> scorer_pb2.ScoreResponse:
        """Returns eight scores, lighting far below the references."""
        await self.turn(request, context)
        looked_at(request.image)
        if request.advisor not in self.profiles:
            raise AdvisorNotFound(f"There is no profile of '{request.advisor}': pre-compute it.")
        response = scorer_pb2.ScoreResponse(overall=6.4, grade="B", scorer="fake@0", release="r1")
        for dimension, score in zip(DIMENSIONS, _SCORES, strict=True):
            best = scorer_pb2.Example(reference_id="0" * 64, title=_TITLES[0], score=9.0)
            needs_work = dimension == types_pb2.DIMENSION_LIGHTING
            comparison = scorer_pb2.Comparison(
                reference=scorer_pb2.Distribution(mean=6.5, stddev=0.8, count=26, best_example=best),
                gap_points=score - 6.5,
                gap=(score - 6.5) / 0.8,
                needs_work=needs_work,
                advice="Expose for the highlights" if needs_work else "",
                examples=[best] if needs_work else [],
            )
            response.dimensions.add(
                dimension=dimension,
                score=score,
                confidence=0.7,
                evidence=[f"Evidence {dimension}."],
                basis=scorer_pb2.BASIS_SIGNAL,
                comparison=comparison,
            )
        return response

    async def GetProfile(
        self, request: scorer_pb2.GetProfileRequest, context: Context
    ) -> scorer_pb2.GetProfileResponse:
        """Returns an empty profile of an advisor that has one."""
        if self.failure is not None:
            raise self.failure
        if request.advisor not in self.profiles:
            raise AdvisorNotFound(f"There is no profile of '{request.advisor}': pre-compute it.")
        return scorer_pb2.GetProfileResponse(advisor=request.advisor, count=26, scorer="fake@0", release="r1")


Fake = FakeEmbedder | FakeCritic | FakeScorer


class FakeComponent:
    """A fake behind the real server."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.service_name = fake.service_name

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer."""
        match self.fake:
            case FakeEmbedder():
                embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(self.fake, server)
            case FakeCritic():
                critic_pb2_grpc.add_CriticServiceServicer_to_server(self.fake, server)
            case FakeScorer():
                scorer_pb2_grpc.add_ScorerServiceServicer_to_server(self.fake, server)

    async def start(self) -> None:
        """Nothing to load."""

    def healthy(self) -> bool:
        """Always."""
        return True

    async def stop(self) -> None:
        """Nothing to give back."""
