"""Deadlines: absolute, in seconds of time.monotonic(), so that threads and event loop agree."""

from __future__ import annotations

import time
from typing import Any

import grpc.aio

Context = grpc.aio.ServicerContext[Any, Any]


def deadline_of(context: Context) -> float | None:
    """Returns the caller's deadline; None where the caller set none."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
