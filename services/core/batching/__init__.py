"""How many callers share one model: in batches, nothing computed twice, whoever finds no room refused at once."""

from __future__ import annotations

from services.core.batching.batcher import Batcher

__all__ = ["Batcher"]
