"""Equal requests share one computation, and only so many computations are under way: one more is refused at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from services.core.errors import Overloaded, QueuedTooLong
from services.core.telemetry.metrics import REFUSED

T = TypeVar("T")


@dataclass(eq=False)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0


class Flights(Generic[T]):
    """Runs one computation for all who ask for the same thing meanwhile. For one event loop.

    A computation holds a permit from its beginning to its end, however many callers it has; without a free one it is
    not begun. A caller who leaves does not disturb the others; when the last one has left, it is cancelled.
    """

    def __init__(self, *, name: str, permits: int, estimated_wait_s: Callable[[], float]) -> None:
        """`name` is the label of the refusals' metric; `estimated_wait_s` says how long a new request would wait."""
        self._flights: dict[Hashable, _Flight[T]] = {}
        self._name = name
        self._permits = permits
        self._estimated_wait_s = estimated_wait_s

    def __len__(self) -> int:
        return len(self._flights)

    async def join(self, key: Hashable, compute: Callable[[], Coroutine[Any, Any, T]], deadline: float | None) -> T:
        """Returns the result of the computation under way for `key`; `compute` begins one where there is none.

        `deadline` is in seconds of time.monotonic(). Who joins what is under way is always let in.

        Raises:
            Overloaded: no permit is free for a new computation.
            QueuedTooLong: the deadline would pass before the turn of a new one.
        """
        flight = self._flights.get(key)
        if flight is None:
            self._admit(deadline)
            flight = _Flight(asyncio.create_task(compute()))
            self._flights[key] = flight
            flight.task.add_done_callback(lambda task: self._land(key, task))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
                # Whoever comes next must not join a computation that is being cancelled.
                self._land(key, flight.task)

    def _land(self, key: Hashable, task: asyncio.Task[T]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]
        if task.done() and not task.cancelled():
            # Retrieved, so that asyncio does not report a failure that nobody waits for any more.
            task.exception()

    def _admit(self, deadline: float | None) -> None:
        wait = self._estimated_wait_s()
        if len(self._flights) >= self._permits:
            REFUSED.labels(self._name).inc()
            raise Overloaded(
                f"{self._permits} requests wait already; try again in {max(wait, 0.1):.1f} s.",
                retry_after_s=max(wait, 0.1),
            )
        if deadline is not None and time.monotonic() + wait >= deadline:
            raise QueuedTooLong(
                f"The deadline is nearer than the wait of {wait:.2f} s: allow more time or try again later."
            )
