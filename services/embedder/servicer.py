"""EmbedderService: every rpc converts, calls and converts."""

from __future__ import annotations

import asyncio
import re
import time

import numpy as np
from mondrian.embedder.v1 import embedder_pb2, embedder_pb2_grpc

from services.core.batching.engine import Computed
from services.core.batching.serving import Serving
from services.core.errors import EncoderMismatch, InvalidArgument
from services.core.identifiers import asked_advisor
from services.core.rpc.deadlines import Context, deadline_of
from services.core.rpc.pages import page
from services.embedder.conversions import advisor_message, embedding_message, reference_message, timings_message
from services.embedder.encoder import Vector, encoder_id
from services.embedder.engine import EmbeddingEngine
from services.embedder.index import MAX_TOP_K, unit_vector
from services.embedder.references import Neighbor, References
from services.embedder.selection import Filter

DEFAULT_TOP_K = 3
_REFERENCE_ID = re.compile(r"[0-9a-f]{64}")


class EmbedderServicer(embedder_pb2_grpc.EmbedderServiceServicer):
    """Answers from what `serving` has loaded; each answer comes from one release."""

    def __init__(self, serving: Serving[EmbeddingEngine, References]) -> None:
        self._serving = serving

    async def Embed(self, request: embedder_pb2.EmbedRequest, context: Context) -> embedder_pb2.EmbedResponse:
        """Returns the embedding of one photograph or of one text."""
        started = time.perf_counter()
        embedded = await self._embedded(request, context)
        if embedded is None:
            raise InvalidArgument("Nothing to embed: set image or text.", field="input")
        return embedder_pb2.EmbedResponse(
            embedding=embedding_message(embedded.result),
            encoder=self._encoder_id,
            cached=embedded.cached,
            timings=timings_message(time.perf_counter() - started, embedded),
        )

    async def SearchReferences(
        self, request: embedder_pb2.SearchReferencesRequest, context: Context
    ) -> embedder_pb2.SearchReferencesResponse:
        """Returns the references that are most similar to the query."""
        started = time.perf_counter()
        top_k = _top_k(request.top_k)
        advisor = asked_advisor(request.advisor, required=False)
        references = self._serving.release()
        references.require_advisor(advisor)
        only = _filter(request)
        diversity = _diversity(request.diversity)
        embedded = await self._embedded(request, context)
        query = embedded.result if embedded else self._given(request, references)
        without = request.reference_id or None
        search_started = time.perf_counter()

        def search() -> list[tuple[Neighbor, bytes]]:
            found = references.nearest(query, top_k, advisor=advisor, without=without, diversity=diversity, only=only)
            wanted = request.include_thumbnails
            return [(one, references.catalogue.thumbnail(one.reference.entry.id) if wanted else b"") for one in found]

        neighbors = await asyncio.to_thread(search)
        search_s = time.perf_counter() - search_started
        return embedder_pb2.SearchReferencesResponse(
            neighbors=[
                embedder_pb2.Neighbor(reference=reference_message(one.reference, thumbnail), similarity=one.similarity)
                for one, thumbnail in neighbors
            ],
            encoder=self._encoder_id,
            release=references.release_id,
            cached=embedded is not None and embedded.cached,
            timings=timings_message(time.perf_counter() - started, embedded, search_s),
        )

    async def ListAdvisors(
        self, request: embedder_pb2.ListAdvisorsRequest, context: Context
    ) -> embedder_pb2.ListAdvisorsResponse:
        """Lists the advisors of the release, by id."""
        references = self._serving.release()
        advisors, token = page(references.advisors, request.page_size, request.page_token, lambda one: one.id)
        return embedder_pb2.ListAdvisorsResponse(
            advisors=[advisor_message(one) for one in advisors], next_page_token=token, release=references.release_id
        )

    async def GetReference(
        self, request: embedder_pb2.GetReferenceRequest, context: Context
    ) -> embedder_pb2.GetReferenceResponse:
        """Returns one reference with its metadata and thumbnail."""
        _require_reference_id(request.id, "id")
        advisor = asked_advisor(request.advisor, required=False)
        references = self._serving.release()
        record = references.reference(request.id, advisor)
        return embedder_pb2.GetReferenceResponse(
            reference=reference_message(record, references.catalogue.thumbnail(request.id)),
            embedding=embedding_message(references.stored(request.id)),
            encoder=self._encoder_id,
            release=references.release_id,
        )

    @property
    def _encoder_id(self) -> str:
        return encoder_id(self._serving.engine().encoder)

    async def _embedded(
        self, request: embedder_pb2.EmbedRequest | embedder_pb2.SearchReferencesRequest, context: Context
    ) -> Computed[Vector] | None:
        """Returns the embedding of the request's photograph or text; None where it has neither."""
        engine = self._serving.engine()
        if request.HasField("image"):
            return await engine.photograph(request.image.content, deadline=deadline_of(context))
        if request.HasField("text"):
            return await engine.text(request.text, deadline=deadline_of(context))
        return None

    def _given(self, request: embedder_pb2.SearchReferencesRequest, references: References) -> Vector:
        """Returns the unit vector that the request names without the encoder."""
        if request.HasField("embedding"):
            if request.encoder not in ("", self._encoder_id):
                raise EncoderMismatch(
                    f"The embedding was made by {request.encoder[:120]!r} and this service has "
                    f"{self._encoder_id}; embed the photograph again with Embed.",
                    metadata={"encoder": self._encoder_id},
                )
            values = np.asarray(request.embedding.values, dtype=np.float32)
            return unit_vector(values, self._serving.engine().encoder.dimensions)
        if request.HasField("reference_id"):
            _require_reference_id(request.reference_id, "reference_id")
            # Any advisor's: one may be asked what is nearest to a photograph of another.
            references.reference(request.reference_id)
            return references.stored(request.reference_id)
        raise InvalidArgument("Nothing to search for: set image, text, embedding or reference_id.", field="query")


def _top_k(top_k: int) -> int:
    if not 0 <= top_k <= MAX_TOP_K:
        raise InvalidArgument(f"top_k is {top_k}; ask for 1 to {MAX_TOP_K}, or 0 for {DEFAULT_TOP_K}.", field="top_k")
    return top_k or DEFAULT_TOP_K


def _diversity(diversity: float) -> float:
    # NaN is in no range.
    if not 0.0 <= diversity <= 1.0:
        # As a float32, which it came as: shortened it could be one that is taken.
        raise InvalidArgument(f"diversity is {np.float32(diversity)!s}; give a number from 0 to 1.", field="diversity")
    return diversity


def _filter(request: embedder_pb2.SearchReferencesRequest) -> Filter | None:
    if not request.HasField("filter"):
        return None
    asked = request.filter
    return Filter.of(
        asked.year_from if asked.HasField("year_from") else None,
        asked.year_to if asked.HasField("year_to") else None,
        asked.tags,
    )


def _require_reference_id(reference_id: str, field: str) -> None:
    if not _REFERENCE_ID.fullmatch(reference_id):
        raise InvalidArgument(
            "A reference's id is 64 lower-case hex characters, as SearchReferences returns it.", field=field
        )
