"""A limit to the bytes of the requests being answered: a few large photographs weigh as much as many small ones."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from services.core.errors import Overloaded
from services.core.telemetry.metrics import REFUSED


class ByteBudget:
    """The bytes of the requests that are being answered, at most `limit` together; one alone is let in at any size."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._freed = asyncio.Event()
        self._line = asyncio.Lock()

    @property
    def held(self) -> int:
        """The bytes of the requests that are in."""
        return self._held

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Counts `size` bytes until the end of the block.

        Raises:
            Overloaded: there is no room for them beside the others.
        """
        if self._full(size):
            REFUSED.labels("bytes").inc()
            raise Overloaded(
                f"Requests of {self._held / 2**20:.0f} MiB are being answered, and this one of {size / 2**20:.1f} MiB "
                f"does not fit into the {self._limit / 2**20:.0f} MiB beside them; try again in a moment.",
                retry_after_s=1.0,
            )
        self._held += size
        try:
            yield
        finally:
            self.release(size)

    async def acquire(self, size: int) -> None:
        """Counts `size` bytes from when there is room for them until `release`; first come, first served."""
        # One at a time: otherwise a stream of small ones would keep a large one out for ever.
        async with self._line:
            while self._full(size):
                self._freed.clear()
                await self._freed.wait()
            self._held += size

    def release(self, size: int) -> None:
        """Counts `size` bytes no more."""
        self._held -= size
        self._freed.set()

    def _full(self, size: int) -> bool:
        return self._held > 0 and self._held + size > self._limit
