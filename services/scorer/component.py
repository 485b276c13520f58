"""The scorer as its server sees it: the calibrated measures, and the references of the release that is served."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc.aio
from mondrian.scorer.v1 import scorer_pb2, scorer_pb2_grpc

from services.core.batching.serving import Serving
from services.scorer.engine import ScoringEngine
from services.scorer.loading import load_scorer
from services.scorer.references import Library, load_library
from services.scorer.scoring import Scores
from services.scorer.servicer import ScorerServicer
from services.scorer.settings import ScorerSettings


class ScorerComponent(Serving[ScoringEngine, Library]):
    """A services.core.rpc.server.Component."""

    service_name: Final[str] = scorer_pb2.DESCRIPTOR.services_by_name["ScorerService"].full_name

    def __init__(self, settings: ScorerSettings) -> None:
        super().__init__()
        self._settings = settings

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer; until the measures have run once it answers UNAVAILABLE."""
        scorer_pb2_grpc.add_ScorerServiceServicer_to_server(ScorerServicer(self), server)

    async def start(self) -> None:
        """Loads the calibration, measures a first picture and loads the current release.

        Raises:
            ConfigurationError: the device, the calibration or the release cannot be used.
        """
        scorer = await asyncio.to_thread(load_scorer, self._settings)
        await self.begin(
            ScoringEngine(scorer, self._settings, self._scores_of),
            self._settings,
            lambda release: load_library(release, scorer.id),
        )

    def _scores_of(self, photograph_id: str) -> Scores | None:
        """Returns the scores of a photograph that is a reference of the release; None where it is not."""
        library = self.release_or_none()
        return library.scores_of(photograph_id) if library else None
