"""Starts the scorer: `python -m services.scorer`."""

from __future__ import annotations

from services.core.rpc.server import main
from services.scorer.component import ScorerComponent
from services.scorer.settings import ScorerSettings

if __name__ == "__main__":
    main(ScorerComponent, ScorerSettings)
