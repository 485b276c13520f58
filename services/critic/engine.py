"""What the service asks of an engine: critiques written token by token, and adapters that come and go.

The boundary is narrow on purpose, so that another engine can stand behind it: a prompt that the engine itself
prepared, sampling parameters and an adapter's key go in; a stream of events comes out.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from services.critic.lora import AdapterWeights
from services.critic.model import Prompt
from services.critic.sampling import SamplingParams


class AdapterNotLoaded(LookupError):
    """The engine holds no adapter by that key (any more)."""


class Finish(enum.Enum):
    """Why a critique ended: the model ended it, or it reached its limit of tokens."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class Started:
    """The prompt has been read. `queue_s`: seconds waiting for a slot; `prefill_s`: reading photograph and prompt."""

    queue_s: float
    prefill_s: float


@dataclass(frozen=True)
class Delta:
    """A piece of text, whole characters only, never empty."""

    text: str


@dataclass(frozen=True)
class Completed:
    """The critique has ended. `tokens`: all that were written, the one that ended it included; times in seconds.

    `first_token_s` runs from submission, as `queue_s` does; `decode_s` from the first token to the last.
    """

    finish: Finish
    tokens: tuple[int, ...]
    prompt_tokens: int
    image_tokens: int
    queue_s: float
    prefill_s: float
    first_token_s: float
    decode_s: float


Event = Started | Delta | Completed


@dataclass(frozen=True)
class EngineStats:
    """What an engine is doing: requests in slots and waiting, totals since the start, bytes held."""

    rows: int
    waiting: int
    slots: int
    adapters: int
    steps: int
    tokens: int
    finished: int
    cancelled: int
    failed: int
    adapter_bytes: int
    vision_cache_bytes: int


class Generation:
    """One critique being written: iterate over its events, the last of which is `Completed`.

    Iteration raises the error that ended it early: `QueuedTooLong` when its deadline passed, `DeviceMemory`,
    `EngineStopped`. Belongs to the event loop it was made in; `cancel` and `cancelled` are for any thread.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._on_cancel = on_cancel
        self._over = False
        self.cancelled = False

    def cancel(self) -> None:
        """Stops writing at the next token; does nothing when it has ended."""
        if not self.cancelled:
            self.cancelled = True
            self._on_cancel()

    def deliver(self, event: Event | Exception) -> None:
        """Hands over an event; called by the engine, in the generation's own event loop."""
        self._events.put_nowait(event)

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        try:
            event = await self._events.get()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if isinstance(event, Exception):
            self._over = True
            raise event
        self._over = isinstance(event, Completed)
        return event


class Engine(Protocol):
    """Writes critiques."""

    def prepare(self, image: Callable[[], Image.Image], key: str, write: Callable[[int], str]) -> Prompt:
        """Returns the prompt of a photograph and the text that `write` returns for its number of image tokens.

        `image` decodes the photograph (mode RGB) if it is needed; `key` is its identity. Heavy: call it off the event
        loop, from any thread. Raises `InvalidImage` and `InvalidArgument`.
        """
        ...

    def submit(
        self, prompt: Prompt, params: SamplingParams, *, adapter: str | None = None, deadline: float | None = None
    ) -> Generation:
        """Queues a critique. `deadline`: seconds on `time.monotonic`'s clock.

        Raises at once `Overloaded` (no place, or the wait would outlast the deadline), `InvalidArgument` (the prompt
        is too long, or the limit of tokens too low for JSON), `EngineStopped`, and `AdapterNotLoaded`.
        """
        ...

    async def load_adapter(self, key: str, weights: AdapterWeights) -> None:
        """Makes an adapter usable under `key`, between two steps. Raises `DeviceMemory` or `EngineStopped`."""
        ...

    async def unload_adapter(self, key: str) -> None:
        """Takes no new requests for an adapter, lets those it has finish, then frees it."""
        ...

    def stats(self) -> EngineStats:
        """Returns what the engine is doing now."""
        ...

    def healthy(self) -> bool:
        """Returns whether the engine is running and making progress."""
        ...

    async def close(self) -> None:
        """Ends the engine; what is still being written fails with `EngineStopped`."""
        ...
