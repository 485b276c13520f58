"""A model behind many callers: what is known is answered at once, the rest prepared in threads and run in batches."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from services.core.batching.batcher import Batcher, Measured
from services.core.batching.flights import Flights
from services.core.batching.recent import Recent
from services.core.images.reading import ImageLimits, sha256
from services.core.settings import ReferenceSettings, available_cpus

T = TypeVar("T")
R = TypeVar("R")

# Below this size, hashing on the event loop is cheaper than handing the bytes to a thread.
_HASHED_INLINE: Final = 512 * 1024


@dataclass(frozen=True)
class Computed(Generic[R]):
    """A result and what it took; the durations are 0 for what was known."""

    key: str
    """What it was asked for by: of a photograph the lower-case hex sha256 of its bytes."""
    result: R
    cached: bool
    """Whether it was known, so that the model was not run."""
    decode_s: float = 0.0
    """Seconds of preparing: decoding and resizing, or tokenizing."""
    queue_s: float = 0.0
    """Seconds in the queue of the model."""
    compute_s: float = 0.0
    """Seconds in the model, the whole batch's."""


class Engine(ABC, Generic[T, R]):
    """Runs a model for many callers. Its coroutines belong to one event loop.

    At most `max_queue` + `max_batch` items are being prepared, waiting and computed; one more is refused at once. Equal
    ones are computed once, and one whose callers have all left is dropped.
    """

    def __init__(self, name: str, settings: ReferenceSettings, known: Callable[[str], R | None]) -> None:
        """`known` returns the result of a photograph by its sha256 where a release has it; `name` labels metrics."""
        self._limits = ImageLimits.of(settings)
        self._known = known
        self._batcher: Batcher[T, R] = Batcher(self._run, name=name, max_batch=settings.max_batch, key=self._kind)
        self._pool = ThreadPoolExecutor(settings.decode_threads or available_cpus(), thread_name_prefix="decode")
        self._recent: Recent[str, R] = Recent(settings.cache_entries)
        self._flights: Flights[Computed[R]] = Flights(
            name=name, permits=settings.max_queue + settings.max_batch, estimated_wait_s=self._batcher.estimated_wait_s
        )

    @property
    def alive(self) -> bool:
        """Whether the model's thread runs."""
        return self._batcher.alive

    @property
    def in_flight(self) -> int:
        """How many items are being prepared, waiting and computed; equal ones count once."""
        return len(self._flights)

    async def photograph(self, content: bytes, *, deadline: float | None) -> Computed[R]:
        """Returns the result for an encoded photograph. `deadline` is in seconds of time.monotonic().

        Raises:
            InvalidImage: it is not a photograph within the limits.
            Overloaded: no permit is free.
            QueuedTooLong: the deadline would pass before its turn.
            DeviceMemory: the batch does not fit into the device's memory.
        """
        # Not in the decoding threads: a request that is refused or known must not wait behind photographs being
        # decoded.
        identity = sha256(content) if len(content) < _HASHED_INLINE else await asyncio.to_thread(sha256, content)
        return await self._computed(identity, lambda: self._decode(content), deadline, self._known)

    @abstractmethod
    async def warm_up(self) -> None:
        """Runs the model once, so that the first caller does not pay for what it prepares."""

    async def close(self) -> None:
        """Answers what waits, then ends the threads."""
        await self._batcher.close()
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

    @abstractmethod
    def _decode(self, content: bytes) -> T:
        """Returns what the model takes of an encoded photograph; called in a thread."""

    @abstractmethod
    def _run(self, items: list[T]) -> Sequence[R]:
        """Returns the results of a batch, all of one kind; called on the batcher's thread."""

    @abstractmethod
    def _kind(self, item: T) -> Hashable:
        """Returns what is equal for items that may share a batch."""

    async def _computed(
        self,
        key: str,
        prepare: Callable[[], T],
        deadline: float | None,
        known: Callable[[str], R | None] = lambda _: None,
    ) -> Computed[R]:
        """Returns what is remembered or `known` under a key, else what is computed of what `prepare` returns."""
        result = self._recent.get(key)
        if result is None:
            result = known(key)
        if result is not None:
            return Computed(key, result, cached=True)
        return await self._flights.join(key, lambda: self._compute(key, prepare), deadline)

    async def _compute(self, key: str, prepare: Callable[[], T]) -> Computed[R]:
        result, decode_s, measured = await self._submit(prepare)
        self._recent.put(key, result)
        return Computed(key, result, False, decode_s, measured.queue_s, measured.compute_s)

    async def _submit(self, prepare: Callable[[], T]) -> tuple[R, float, Measured]:
        """Prepares an item in a thread and runs it; returns the result, the seconds of preparing, and the rest."""

        def timed() -> tuple[T, float]:
            started = time.perf_counter()
            return prepare(), time.perf_counter() - started

        # If the caller leaves, what has not begun leaves the pool's queue.
        item, decode_s = await asyncio.get_running_loop().run_in_executor(self._pool, timed)
        result, measured = await self._batcher.submit(item)
        return result, decode_s, measured
