"""What an operator watches of the embedder, beside the metrics of every service."""

from __future__ import annotations

from typing import Final

from prometheus_client import Gauge

FIDELITY: Final = Gauge(
    "mondrian_embedder_engine_fidelity",
    "How well the engine keeps torch's embeddings, measured at start-up; 1 is the same.",
    ["measure"],
)
