"""Prometheus metrics of the gateway. Labels are bounded: modes, parts and codes."""

from __future__ import annotations

from typing import Final

from prometheus_client import Histogram

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 7.5, 10, 20, 30, 60, 120)

MODE_SECONDS: Final = Histogram(
    "mondrian_gateway_mode_seconds",
    "Duration of an analysis, in seconds, by mode and outcome (whole, partial, failed, cancelled).",
    ["mode", "outcome"],
    buckets=_SECONDS,
)
PART_SECONDS: Final = Histogram(
    "mondrian_gateway_part_seconds",
    "From the fan-out until a part was ready or had failed, in seconds, by part and status code.",
    ["part", "code"],
    buckets=_SECONDS,
)
