"""ScorerService: every rpc converts, calls and converts."""

from __future__ import annotations

import time

from mondrian.scorer.v1 import scorer_pb2, scorer_pb2_grpc

from services.core.batching.serving import Serving
from services.core.identifiers import asked_advisor
from services.core.rpc.deadlines import Context, deadline_of
from services.scorer.conversions import profile_response, score_response
from services.scorer.engine import ScoringEngine
from services.scorer.references import Library


class ScorerServicer(scorer_pb2_grpc.ScorerServiceServicer):
    """Answers from what `serving` has loaded; each answer comes from one release."""

    def __init__(self, serving: Serving[ScoringEngine, Library]) -> None:
        self._serving = serving

    async def Score(self, request: scorer_pb2.ScoreRequest, context: Context) -> scorer_pb2.ScoreResponse:
        """Returns the eight scores of one photograph, against an advisor where one is named."""
        started = time.perf_counter()
        engine = self._serving.engine()
        # Looked up first: an advisor that is not there costs no decoding.
        asked = asked_advisor(request.advisor, required=False)
        library = self._serving.release() if asked else None
        advisor = library.advisor(asked) if library else None
        scored = await engine.photograph(request.image.content, deadline=deadline_of(context))
        return score_response(
            scored,
            engine.scorer.id,
            advisor,
            library.release_id if library else "",
            time.perf_counter() - started,
        )

    async def GetProfile(
        self, request: scorer_pb2.GetProfileRequest, context: Context
    ) -> scorer_pb2.GetProfileResponse:
        """Returns an advisor's reference distribution."""
        asked = asked_advisor(request.advisor, required=True)
        library = self._serving.release()
        return profile_response(library.advisor(asked), library.release_id)
