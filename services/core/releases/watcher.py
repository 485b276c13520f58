"""Follows `current`: loads what it names and swaps it in without disturbing those who use the old value."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from services.core.errors import ConfigurationError, NoRelease
from services.core.releases.release import Release
from services.core.releases.store import ReleaseStore
from services.core.telemetry.metrics import RELEASE_DAMAGED

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 300.0
"""Between two looks at a release that was refused: all of it is read each time."""

T = TypeVar("T")
_log = logging.getLogger("mondrian.releases")


class ReleaseWatcher(Generic[T]):
    """Holds the value made from the current release.

    `load` turns a verified release into the value; it runs in a thread and may refuse the release with a
    ConfigurationError. The value must keep a reference to the Release as long as it reads the release's files.
    `current` is looked at every `poll_s` seconds. What was refused is read again when one of its files changes, and
    after pauses that grow, since a disk or memory may fail for a moment only. Every byte of what is served is compared
    with its sha256 every `verify_s` seconds (0: never): a difference is logged and shown by a metric, before a reader
    or the next start meets it. The value is still served, since it was made from sound bytes. `on_swap` is called in
    the event loop with the value replaced.

    A caller takes `value` once and uses that object to its end: a swap changes what the next caller gets, so every
    answer comes from one release.
    """

    def __init__(
        self,
        store: ReleaseStore,
        load: Callable[[Release], T],
        *,
        poll_s: float = 1.0,
        verify_s: float = 0.0,
        on_swap: Callable[[T | None], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._load = load
        self._poll_s = poll_s
        self._verify_s = verify_s
        self._on_swap = on_swap
        self._value: T | None = None
        self._release_id: str | None = None
        self._clock = clock
        self._seen: tuple[object, ...] | None = None
        self._pause_s = 0.0
        self._again_at = math.inf
        self._said: tuple[object, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._refreshing = asyncio.Lock()

    @property
    def value(self) -> T:
        """The value of the newest release that was not refused.

        Raises:
            NoRelease: there is none yet.
        """
        if self._value is None:
            raise NoRelease("Nothing has been pre-computed yet; run `mondrian precompute` for an advisor.")
        return self._value

    @property
    def release_id(self) -> str | None:
        """The id of the release that `value` was made from; None before the first."""
        return self._release_id

    async def start(self) -> None:
        """Loads the current release, if there is one, and begins to follow.

        Raises:
            ConfigurationError: the release was refused; with no older value to keep, start-up cannot go on.
        """
        await self._refresh()
        self._task = asyncio.create_task(self._follow(), name="release-watcher")

    async def refresh(self) -> bool:
        """Looks at `current` now and returns whether the value was swapped. A release that is refused is logged."""
        try:
            return await self._refresh()
        except Exception as error:
            said = (self._seen, repr(error))
            if said != self._said:
                self._said = said
                if isinstance(error, ConfigurationError):
                    _log.error("The new release is refused and the old one stays: %s", error)
                else:
                    _log.exception("The new release cannot be loaded and the old one stays")
        return False

    async def verify(self) -> list[str]:
        """Returns a sentence for every file of the served release that differs from its sha256, and logs it."""
        if self._release_id is None:
            return []
        problems = await asyncio.to_thread(self._store.verify, self._release_id)
        for problem in problems:
            _log.error("The release that is served has been damaged since it was verified: %s", problem)
        RELEASE_DAMAGED.set(bool(problems))
        return problems

    async def stop(self) -> None:
        """Stops following. The value stays usable."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _follow(self) -> None:
        verified = self._clock()
        while True:
            await asyncio.sleep(self._poll_s)
            if await self.refresh():
                # Loading it has verified it.
                verified = self._clock()
                RELEASE_DAMAGED.set(0)
            if self._verify_s and self._clock() >= verified + self._verify_s:
                await self.verify()
                verified = self._clock()

    async def _refresh(self) -> bool:
        async with self._refreshing:
            # In a thread: a network file system may take its time. Taken before the release is opened, so that a
            # switch in between is seen by the next look.
            signature = await asyncio.to_thread(self._store.signature)
            if signature != self._seen:
                self._pause_s = 0.0
            elif self._clock() < self._again_at:
                return False
            self._seen, self._again_at = signature, math.inf
            if signature is None:
                _log.error("There is no release in %s any more; the one that was loaded stays", self._store.root)
                return False
            try:
                loaded = await asyncio.to_thread(self._open)
            except Exception:
                self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
                self._again_at = self._clock() + self._pause_s
                raise
            if loaded is None:
                return False
            old, (self._release_id, self._value) = self._value, loaded
        _log.info("Release %s is served", self._release_id)
        if self._on_swap is not None:
            self._on_swap(old)
        return True

    def _open(self) -> tuple[str, T] | None:
        release_id = self._store.current_id()
        if release_id is None or release_id == self._release_id:
            return None
        release = self._store.current()
        if release is None or release.id == self._release_id:
            return None
        return release.id, self._load(release)
