"""Scoring under load: known photographs at once, the others decoded in threads and measured in batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from services.core.batching import Batcher
from services.core.devices import device_memory_guard
from services.core.flights import AdmittedFlights
from services.core.images import ImageLimits, sha256
from services.core.recent import Recent
from services.scorer import photographs
from services.scorer.scoring import Picture, Scorer, Scores

# Hashing less than this takes the event loop less time than handing it to a thread does.
_HASHED_INLINE = 512 * 1024


@dataclass(frozen=True)
class Scored:
    """Scores and what they took; the durations are 0 for what was known."""

    photograph_id: str
    """The lower-case hex sha256 of the bytes."""
    scores: Scores
    decode_s: float = 0.0
    """Seconds of decoding and resizing."""
    queue_s: float = 0.0
    """Seconds in the queue of the measures."""
    compute_s: float = 0.0
    """Seconds in the measures, the whole batch's."""


class ScoringEngine:
    """Runs a scorer for many callers. Its coroutines belong to one event loop.

    At most `max_queue` + `max_batch` photographs are decoded, wait and are measured at once; one more is refused.
    Equal photographs count once, and are measured once.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        max_batch: int,
        max_queue: int,
        decode_threads: int,
        cache_entries: int,
        limits: ImageLimits,
    ) -> None:
        self.scorer = scorer
        self._limits = limits
        permits = max_queue + max_batch
        # Pictures of unequal shape cannot be stacked, so the shape is what may share a batch.
        self._batcher: Batcher[Picture, Scores] = Batcher(
            self._run, name="scorer", max_batch=max_batch, max_queue=permits, key=lambda picture: picture.shape
        )
        self._pool = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._recent: Recent[str, Scores] = Recent(cache_entries)
        self._flights: AdmittedFlights[Scored] = AdmittedFlights(
            name="scorer", permits=permits, estimated_wait_s=self._batcher.estimated_wait_s
        )

    @property
    def alive(self) -> bool:
        """Whether the thread of the measures runs."""
        return self._batcher.alive

    async def score(self, content: bytes, *, deadline: float | None, known: Callable[[str], Scores | None]) -> Scored:
        """Returns the scores of an encoded photograph.

        `known` returns the scores of a photograph by its sha256 where a release has it. `deadline` is in seconds of
        time.monotonic().

        Raises:
            InvalidImage: it is not a photograph within the limits.
            Overloaded: no permit is free.
            QueuedTooLong: the deadline would pass before its turn.
            DeviceMemory: the batch does not fit into the device's memory.
        """
        identity = sha256(content) if len(content) < _HASHED_INLINE else await asyncio.to_thread(sha256, content)
        scores = self._recent.get(identity) or known(identity)
        if scores is not None:
            return Scored(identity, scores)
        return await self._flights.join(identity, lambda: self._score(identity, content), deadline)

    async def warm_up(self) -> None:
        """Scores one drawn picture, so that the first caller does not pay for what torch prepares."""
        await self._batcher.submit(Picture.of(Image.linear_gradient("L").convert("RGB")))

    async def close(self) -> None:
        """Answers what waits, then ends the threads."""
        await self._batcher.close()
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

    async def _score(self, identity: str, content: bytes) -> Scored:
        picture, decode_s = await asyncio.get_running_loop().run_in_executor(self._pool, self._prepare, content)
        scores, measured = await self._batcher.submit_measured(picture)
        self._recent.put(identity, scores)
        return Scored(identity, scores, decode_s, measured.queue_s, measured.compute_s)

    def _prepare(self, content: bytes) -> tuple[Picture, float]:
        started = time.perf_counter()
        return photographs.picture(content, self._limits), time.perf_counter() - started

    def _run(self, pictures: list[Picture]) -> list[Scores]:
        """Runs on the batcher's thread; all pictures are of one shape."""
        with device_memory_guard():
            return self.scorer.score(pictures)
