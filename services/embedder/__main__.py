"""Starts the embedder: `python -m services.embedder`."""

from __future__ import annotations

from services.core.rpc.server import main
from services.embedder.component import EmbedderComponent
from services.embedder.settings import EmbedderSettings

if __name__ == "__main__":
    main(EmbedderComponent, EmbedderSettings)
