"""Starts the scorer: `python -m services.scorer`."""

from __future__ import annotations

import sys

from services.core.errors import ConfigurationError
from services.core.server import main
from services.scorer.component import ScorerComponent
from services.scorer.settings import ScorerSettings

if __name__ == "__main__":
    try:
        settings = ScorerSettings.load()
    except ConfigurationError as error:
        print(f"mondrian: {error}", file=sys.stderr)
        sys.exit(2)
    main(ScorerComponent(settings), settings)
