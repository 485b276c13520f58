"""Starts the embedder: `python -m services.embedder`."""

from __future__ import annotations

import sys

from services.core.errors import ConfigurationError
from services.core.server import main
from services.embedder.component import EmbedderComponent
from services.embedder.settings import EmbedderSettings

if __name__ == "__main__":
    try:
        settings = EmbedderSettings.load()
    except ConfigurationError as error:
        print(f"mondrian: {error}", file=sys.stderr)
        sys.exit(2)
    main(EmbedderComponent(settings), settings)
