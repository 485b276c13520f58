"""Dynamic batching: a batch is what waited while the last one ran.

There is no window: an idle model starts at once, and a busy one gathers work by being busy. Admission is by permit:
what cannot be answered in time is refused at once, instead of waiting for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from services.core.errors import Draining, EngineStopped, MondrianError, Overloaded, QueuedTooLong
from services.core.metrics import BATCH_SIZE, DROPPED, QUEUE_LENGTH, REFUSED

log = logging.getLogger("mondrian.batching")

T = TypeVar("T")
R = TypeVar("R")

# How quickly the estimate of a batch's duration follows change: about the last ten batches count.
_SMOOTHING: Final = 0.2
_ENDED: Final = "The model's thread has ended; the service is about to be restarted."


@dataclass(frozen=True)
class Measured:
    """What one item met on its way: seconds in the queue, seconds in the model, and the size of its batch."""

    queue_s: float
    compute_s: float
    batch: int


@dataclass(eq=False)
class _Item(Generic[T, R]):
    value: T
    key: Hashable
    future: asyncio.Future[tuple[R, Measured]]
    loop: asyncio.AbstractEventLoop
    deadline: float | None
    submitted: float = field(default_factory=time.monotonic)


class Batcher(Generic[T, R]):
    """Runs items in batches on one thread of its own.

    `run` gets 1 to `max_batch` items of equal `key` and returns as many results in their order; an exception in an
    item's place is raised to that item's submitter alone, an exception raised by `run` to the whole batch's.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Sequence[R | BaseException]],
        *,
        name: str,
        max_batch: int,
        max_queue: int,
        key: Callable[[T], Hashable] | None = None,
    ) -> None:
        self._run = run
        self._name = name
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._key = key or (lambda _: None)
        self._waiting: deque[_Item[T, R]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._ended = False
        self._batch_s = 0.0
        self._running = 0
        self._queue_length = QUEUE_LENGTH.labels(name)
        self._thread = threading.Thread(target=self._loop, name=f"batcher-{name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs, so that submitted items will be answered."""
        return not self._ended and not self._closed

    def estimated_wait_s(self) -> float:
        """Returns the seconds that an item submitted now would wait before its batch starts; 0 when idle."""
        batches_ahead = -(-len(self._waiting) // self._max_batch) + (1 if self._running else 0)
        return batches_ahead * self._batch_s

    async def submit(self, item: T, *, deadline: float | None = None) -> R:
        """Returns the result of one item.

        `deadline` is absolute, in seconds of time.monotonic(); None waits as long as it takes. A submitter that is
        cancelled takes its item out of the queue.

        Raises:
            Overloaded: `max_queue` items wait already; RetryInfo holds the estimated wait.
            QueuedTooLong: the deadline has passed, or would pass before the item's turn.
            Draining: the batcher is closed.
            EngineStopped: the thread has died, before or while the item waits.
        """
        result, _ = await self.submit_measured(item, deadline=deadline)
        return result

    async def submit_measured(self, item: T, *, deadline: float | None = None) -> tuple[R, Measured]:
        """Returns what `submit` returns, and what the item met on its way."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[R, Measured]] = loop.create_future()
        entry: _Item[T, R] = _Item(item, self._key(item), future, loop, deadline)
        with self._wake:
            self._admit(entry)
            self._waiting.append(entry)
            self._queue_length.set(len(self._waiting))
            self._wake.notify()
        return await future

    def _admit(self, entry: _Item[T, R]) -> None:
        if self._closed:
            raise Draining("The service is shutting down; another replica answers.")
        if self._ended:
            raise EngineStopped(_ENDED)
        if len(self._waiting) >= self._max_queue:
            # Those who left make room before anybody is refused.
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.future.done())
        wait = self.estimated_wait_s()
        if len(self._waiting) >= self._max_queue:
            REFUSED.labels(self._name).inc()
            raise Overloaded(
                f"{self._max_queue} requests wait already; try again in {max(wait, 0.1):.1f} s.",
                retry_after_s=max(wait, 0.1),
            )
        if entry.deadline is not None and entry.submitted + wait >= entry.deadline:
            raise QueuedTooLong(
                f"The deadline leaves {max(entry.deadline - entry.submitted, 0):.2f} s and the wait is {wait:.2f} s: "
                "allow more time or try again later."
            )

    def _loop(self) -> None:
        batch: list[_Item[T, R]] = []
        try:
            while True:
                with self._wake:
                    while not self._waiting and not self._closed:
                        self._wake.wait()
                    if not self._waiting:
                        return
                    batch = self._take()
                    self._running = len(batch)
                    self._queue_length.set(len(self._waiting))
                if batch:
                    self._run_batch(batch)
                # Neither items nor results stay referenced while idle: they hold photographs.
                batch = []
                self._running = 0
        finally:
            # Whatever ended it: nobody waits for what will not come.
            with self._wake:
                self._ended = True
                for item in (*batch, *self._waiting):
                    _deliver(item, EngineStopped(_ENDED))
                self._waiting.clear()

    def _take(self) -> list[_Item[T, R]]:
        """Returns the oldest item still wanted and those behind it with the same key, at most max_batch."""
        batch: list[_Item[T, R]] = []
        kept: deque[_Item[T, R]] = deque()
        now = time.monotonic()
        while self._waiting:
            item = self._waiting.popleft()
            if item.future.done():
                DROPPED.labels(self._name).inc()
            elif item.deadline is not None and now >= item.deadline:
                DROPPED.labels(self._name).inc()
                _deliver(item, QueuedTooLong("The deadline passed while waiting: allow more time or try again later."))
            elif len(batch) < self._max_batch and (not batch or item.key == batch[0].key):
                batch.append(item)
            else:
                kept.append(item)
                if len(batch) >= self._max_batch:
                    break
        kept.extend(self._waiting)
        self._waiting = kept
        return batch

    def _run_batch(self, batch: list[_Item[T, R]]) -> None:
        started = time.monotonic()
        results: Sequence[R | BaseException]
        try:
            results = self._run([item.value for item in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{self._name} answered {len(results)} results for {len(batch)} items")
        except Exception as error:
            if not isinstance(error, MondrianError):
                log.exception("batch of %d failed in %s", len(batch), self._name)
            results = [error] * len(batch)
        seconds = time.monotonic() - started
        self._batch_s = seconds if not self._batch_s else self._batch_s + _SMOOTHING * (seconds - self._batch_s)
        BATCH_SIZE.labels(self._name).observe(len(batch))
        for loop in {item.loop for item in batch}:
            answers = [
                (item, result, Measured(started - item.submitted, seconds, len(batch)))
                for item, result in zip(batch, results, strict=True)
                if item.loop is loop
            ]
            # One wake-up of the event loop a batch; a loop that has closed has nobody left to answer.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_deliver_all, answers)

    async def close(self) -> None:
        """Refuses new items, answers those that wait, and returns when the thread has ended."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)


def _deliver_all(answers: list[tuple[_Item[T, R], R | BaseException, Measured]]) -> None:
    for item, result, measured in answers:
        if item.future.done():
            continue
        if isinstance(result, BaseException):
            item.future.set_exception(result)
        else:
            item.future.set_result((result, measured))


def _deliver(item: _Item[T, R], error: MondrianError) -> None:
    def fail() -> None:
        if not item.future.done():
            item.future.set_exception(error)

    with contextlib.suppress(RuntimeError):
        item.loop.call_soon_threadsafe(fail)
