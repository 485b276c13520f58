"""Equal requests share one computation: whoever asks while it is under way waits for the same result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(eq=False)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0


class SingleFlight(Generic[T]):
    """Runs one computation for all who ask for the same thing meanwhile. For one event loop.

    A caller who leaves does not disturb the others; when the last one has left, the computation is cancelled.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    async def join(self, key: Hashable, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Returns the result of the computation under way for `key`; `compute` begins one where there is none."""
        flight = self._flights.get(key)
        if flight is None:
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
            # Looked at, so that a failure nobody waits for any more is not reported as forgotten.
            task.exception()
