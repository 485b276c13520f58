"""Dynamic batching: a batch is what waited while the last one ran.

There is no window: an idle model starts at once, and a busy one gathers work by being busy. How many may wait is the
caller's to decide (`flights`).
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

from services.core.errors import Draining, EngineStopped, MondrianError
from services.core.telemetry.metrics import BATCH_SIZE, DROPPED, QUEUE_LENGTH

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
        key: Callable[[T], Hashable],
    ) -> None:
        self._run = run
        self._name = name
        self._max_batch = max_batch
        self._key = key
        self._waiting: deque[_Item[T, R]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._ended = False
        self._batch_s = 0.0
        self._running = False
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

    async def submit(self, value: T) -> tuple[R, Measured]:
        """Returns the result of one item, and what it met on its way; an item whose submitter is cancelled is not run.

        Raises:
            Draining: the batcher is closed.
            EngineStopped: the thread has died, before or while the item waits.
        """
        loop = asyncio.get_running_loop()
        item: _Item[T, R] = _Item(value, self._key(value), loop.create_future(), loop)
        with self._wake:
            if self._closed:
                raise Draining("The service is shutting down; another replica answers.")
            if self._ended:
                raise EngineStopped(_ENDED)
            self._waiting.append(item)
            self._queue_length.set(len(self._waiting))
            self._wake.notify()
        return await item.future

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
                    self._running = bool(batch)
                    self._queue_length.set(len(self._waiting))
                if batch:
                    self._run_batch(batch)
                # Neither items nor results stay referenced while idle: they hold photographs.
                batch = []
                self._running = False
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
        passed_over: list[_Item[T, R]] = []
        while self._waiting and len(batch) < self._max_batch:
            item = self._waiting.popleft()
            if item.future.done():
                DROPPED.labels(self._name).inc()
            elif not batch or item.key == batch[0].key:
                batch.append(item)
            else:
                passed_over.append(item)
        self._waiting.extendleft(reversed(passed_over))
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
