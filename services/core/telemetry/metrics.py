"""Prometheus metrics that every service has. Labels are bounded: methods and codes, never ids of a request."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

RPC_SECONDS: Final = Histogram(
    "mondrian_rpc_seconds",
    "Duration of a call, seen by the server, in seconds.",
    ["method", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
RPC_IN_FLIGHT: Final = Gauge("mondrian_rpc_in_flight", "Calls that are being answered.", ["method"])
QUEUE_LENGTH: Final = Gauge("mondrian_queue_length", "Items that wait for a place in a batch.", ["batcher"])
BATCH_SIZE: Final = Histogram(
    "mondrian_batch_size", "Items that the model ran at once.", ["batcher"], buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
REFUSED: Final = Counter("mondrian_refused_total", "Items refused because no permit was free.", ["batcher"])
RELEASE_DAMAGED: Final = Gauge(
    "mondrian_release_damaged", "1 while the served release differs from what was published, as last verified."
)
DROPPED: Final = Counter("mondrian_dropped_total", "Items dropped unrun because nobody waited for them.", ["batcher"])
