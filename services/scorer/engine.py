"""Scoring under load: photographs of many callers, those of one shape in batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from PIL import Image

from services.core.batching.engine import Engine
from services.core.models.devices import device_memory_guard
from services.scorer import photographs
from services.scorer.scoring import Picture, Scorer, Scores
from services.scorer.settings import ScorerSettings


class ScoringEngine(Engine[Picture, Scores]):
    """Runs a scorer for many callers."""

    def __init__(self, scorer: Scorer, settings: ScorerSettings, known: Callable[[str], Scores | None]) -> None:
        """`known` returns the scores of a photograph by its sha256 where a release has it."""
        self.scorer = scorer
        super().__init__("scorer", settings, known)

    async def warm_up(self) -> None:
        """Scores one drawn picture, so that the first caller does not pay for what torch prepares."""
        await self._submit(lambda: Picture.of(Image.linear_gradient("L").convert("RGB")))

    def _decode(self, content: bytes) -> Picture:
        return photographs.picture(content, self._limits)

    def _kind(self, item: Picture) -> Hashable:
        # Pictures of unequal shape cannot be stacked.
        return item.shape

    def _run(self, items: list[Picture]) -> list[Scores]:
        with device_memory_guard():
            return self.scorer.score(items)
