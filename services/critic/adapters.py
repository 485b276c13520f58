"""The adapters that are served: whatever the folder holds, brought into the engine without losing a request.

The folder is the desired state, and every replica reconciles to it, so that no call changes one replica alone. A new
revision is loaded beside the old one, proven by a short critique, and only then takes its name; the old one finishes
the critiques it has. What is refused keeps nothing from being served: an older revision if there is one, else the base
model.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import enum
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from services.core.errors import DeviceMemory, EngineStopped
from services.core.files.changes import stamp
from services.core.identifiers import legible
from services.critic import adapter_format, metrics
from services.critic.adapter_format import Adapter, AdapterLimits, AdapterRefused, Base
from services.critic.engine import Engine
from services.critic.lora import stacked_elements

log = logging.getLogger("mondrian.critic")

_FILES: Final = (adapter_format.CONFIG_FILE, adapter_format.WEIGHTS_FILE, adapter_format.MANIFEST_FILE)
_Stamp = tuple[tuple[int, int, int] | None, ...]


class State(enum.Enum):
    """Whether an adapter can be used."""

    READY = "ready"
    LOADING = "loading"
    REFUSED = "refused"
    DRAINING = "draining"


@dataclass
class Entry:
    """An adapter of the folder. `key`: its name in the engine, None while it is not in memory; `revision` is that of
    the adapter that is used; `reason` says why the folder's content was refused, empty when it was not."""

    name: str
    state: State = State.LOADING
    revision: str = ""
    reason: str = ""
    rank: int = 0
    size_bytes: int = 0
    key: str | None = None
    stamp: _Stamp = ()
    used: int = 0


@dataclass(frozen=True)
class Voice:
    """Who answers: the adapter `name` under the engine's `key`, or the base model (key None) and why."""

    key: str | None
    name: str = ""
    revision: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Budget:
    """What adapters may take: bytes in the model's memory, and how many at once; `pinned` ones never make room."""

    max_bytes: int
    max_loaded: int
    pinned: frozenset[str] = frozenset()


class AdapterRegistry:
    """Reconciles the engine with a folder; belongs to one event loop.

    `prove` writes a short critique with a key, and raises when the adapter cannot.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        base: Base,
        dtype: torch.dtype,
        *,
        limits: AdapterLimits,
        budget: Budget,
        prove: Callable[[str], Awaitable[None]],
    ) -> None:
        self._folder = folder
        self._engine = engine
        self._base = base
        self._itemsize = dtype.itemsize
        self._limits = limits
        self._budget = budget
        self._prove = prove
        self._entries: dict[str, Entry] = {}
        self._leaving: dict[str, Entry] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        # One adapter is read, loaded or evicted at a time.
        self._changing = asyncio.Lock()
        self._clock = itertools.count(1)

    def entries(self) -> list[Entry]:
        """Returns all adapters by name, those that are leaving included."""
        return sorted((self._leaving | self._entries).values(), key=lambda entry: entry.name)

    async def voice(self, advisor: str) -> Voice:
        """Returns who answers for an advisor, after bringing its adapter back into memory where it had made room."""
        if not advisor:
            return Voice(None)
        entry = self._entries.get(advisor)
        if entry is not None and entry.key is None and entry.state is State.READY:
            # A caller who leaves must not leave an adapter half loaded.
            await asyncio.shield(self._begin(self._bring_back(advisor)))
            entry = self._entries.get(advisor)
        if entry is None:
            return Voice(None, reason=f"There is no adapter for advisor {advisor!r}.")
        if entry.key is None:
            why = entry.reason or "it is being loaded"
            return Voice(None, reason=f"The adapter for {advisor!r} is not usable ({why}).")
        entry.used = next(self._clock)
        return Voice(entry.key, entry.name, entry.revision)

    async def _bring_back(self, advisor: str) -> None:
        async with self._changing:
            # It may have left or come back while this waited.
            entry = self._entries.get(advisor)
            if entry is not None and entry.key is None and entry.state is State.READY:
                await self._take(entry, _stamp(self._folder / advisor))

    async def reconcile(self) -> None:
        """Brings the engine to what the folder holds now. Raises `EngineStopped`."""
        present = await asyncio.to_thread(_scan, self._folder)
        async with self._changing:
            for name in self._entries.keys() - present.keys():
                self._leave(name)
                # It may have left room for what was refused for want of it.
                for entry in self._entries.values():
                    entry.stamp = () if entry.reason else entry.stamp
            for name, stamp in sorted(present.items()):
                entry = self._entries.setdefault(name, Entry(name))
                if entry.stamp != stamp:
                    await self._take(entry, stamp)
        counts = collections.Counter(entry.state for entry in self.entries())
        for state in State:
            metrics.ADAPTERS.labels(state.value).set(counts[state])

    async def watch(self, every_s: float) -> None:
        """Reconciles every `every_s` seconds until the engine ends."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.reconcile()
            except EngineStopped:
                return
            except OSError as error:
                log.warning("the adapters' folder cannot be read: %s", error)
            except Exception:  # what serves goes on serving; the next look may find the cause gone
                log.exception("the adapters could not be reconciled")

    async def settled(self) -> None:
        """Waits until every adapter that leaves has left, and every one that comes back is here."""
        while self._under_way:
            await asyncio.wait(set(self._under_way))

    async def _take(self, entry: Entry, stamp: _Stamp) -> None:
        """Reads, loads, proves and uses the content of an adapter's folder; keeps what was used where that fails."""
        if entry.state is not State.READY:
            entry.state = State.LOADING
        try:
            adapter = await asyncio.to_thread(adapter_format.read, self._folder / entry.name, self._base, self._limits)
            if entry.key is None or adapter.revision != entry.revision:
                await self._use(entry, adapter)
            entry.reason, entry.state, entry.stamp = "", State.READY, stamp
        except AdapterRefused as error:
            self._refuse(entry, str(error))
            entry.stamp = stamp
        except (OSError, DeviceMemory) as error:  # may pass: it is tried again at the next look
            self._refuse(entry, str(error) or type(error).__name__)

    def _refuse(self, entry: Entry, reason: str) -> None:
        if entry.key is not None:
            reason = f"a newer revision is refused, {entry.revision} serves: {reason}"
        if entry.reason != reason:
            log.warning("adapter %s: %s", entry.name, reason)
        entry.reason = reason
        entry.state = State.REFUSED if entry.key is None else State.READY

    async def _use(self, entry: Entry, adapter: Adapter) -> None:
        weights = adapter.weights
        size = stacked_elements(weights, self._base.shapes) * self._itemsize
        if size > self._budget.max_bytes:
            raise AdapterRefused(f"it takes {size:,} bytes, more than all adapters may ({self._budget.max_bytes:,})")
        self._make_room(size, entry)
        # A key is used once: the same revision may come back while it still leaves.
        key = f"{entry.name}@{adapter.revision}#{next(self._clock)}"
        try:
            await self._engine.load_adapter(key, weights)
            if adapter.revision != entry.revision:
                await self._prove(key)
        except (EngineStopped, DeviceMemory):
            self._unload(key)
            raise
        except Exception as error:
            self._unload(key)
            raise AdapterRefused(f"a critique with it cannot be written: {error}") from error
        before = entry.key
        entry.key, entry.revision, entry.rank, entry.size_bytes = key, adapter.revision, weights.rank, size
        entry.used = next(self._clock)
        if before is not None:
            self._unload(before)
        log.info("adapter %s of revision %s is used (rank %d)", entry.name, entry.revision, entry.rank)

    def _make_room(self, size: int, newcomer: Entry) -> None:
        """Takes the least recently used adapters out of memory until `size` more bytes fit."""
        loaded = [entry for entry in self._entries.values() if entry.key is not None and entry is not newcomer]
        loaded.sort(key=lambda entry: entry.used, reverse=True)
        while sum(entry.size_bytes for entry in loaded) + size > self._budget.max_bytes or (
            len(loaded) + 1 > self._budget.max_loaded
        ):
            victims = [entry for entry in loaded if entry.name not in self._budget.pinned]
            if not victims:
                raise AdapterRefused("the memory for adapters is taken by pinned ones")
            victim = victims[-1]
            loaded.remove(victim)
            assert victim.key is not None
            self._unload(victim.key)
            victim.key, victim.size_bytes = None, 0

    def _leave(self, name: str) -> None:
        entry = self._entries.pop(name)
        if entry.key is None:
            return
        entry.state = State.DRAINING
        self._leaving[name] = entry
        self._unload(entry.key, entry)

    def _unload(self, key: str, leaving: Entry | None = None) -> None:
        """Lets the engine free an adapter once its critiques are written; nobody waits for it."""

        async def unload() -> None:
            with contextlib.suppress(EngineStopped):
                await self._engine.unload_adapter(key)
            if leaving is not None and self._leaving.get(leaving.name) is leaving:
                del self._leaving[leaving.name]

        self._begin(unload())

    def _begin(self, change: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begins what goes on whoever waits for it, and returns it."""
        task = asyncio.create_task(change)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task


def _scan(folder: Path) -> dict[str, _Stamp]:
    """Returns the adapters' folders by name, each with what changes when its files do.

    A name that is no text, or not on one line, comes with escapes: it is refused, told and logged by those.
    """
    if not folder.is_dir():
        return {}
    return {legible(path.name): _stamp(path) for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._"}


def _stamp(folder: Path) -> _Stamp:
    return tuple(stamp(folder / name) for name in _FILES)
