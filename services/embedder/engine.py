"""Embedding under load: known photographs at once, the others decoded in threads and batched on the model's thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from services.core.batching import Batcher
from services.core.errors import InvalidText
from services.core.flights import AdmittedFlights
from services.core.images import ImageLimits, sha256
from services.core.recent import Recent
from services.embedder.encoder import Encoder, Pixels, Tokens, Vector

MAX_TEXT_CHARS = 1_000
# Hashing less than this takes the event loop less time than handing it to a thread does.
_HASHED_INLINE = 512 * 1024

T = TypeVar("T")


@dataclass(frozen=True)
class Embedded:
    """An embedding and what it took; the durations are 0 for what was known."""

    vector: Vector
    """Of unit length."""
    cached: bool
    """Whether it was known, so that the encoder was not run."""
    decode_s: float = 0.0
    """Seconds of decoding and resizing, or of tokenizing."""
    queue_s: float = 0.0
    """Seconds in the queue of the model."""
    compute_s: float = 0.0
    """Seconds in the model, the whole batch's."""


@dataclass(frozen=True)
class _Photograph:
    pixels: Pixels


@dataclass(frozen=True)
class _Text:
    tokens: Tokens


def nothing_known(_: str) -> None:
    """Returns None: what is known of a photograph where no release is served."""


class EmbeddingEngine:
    """Runs an encoder for many callers. Its coroutines belong to one event loop.

    At most `max_queue` + `max_batch` photographs and texts are being decoded, waiting and computed; one more is
    refused at once. What its callers have left is neither decoded nor computed.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        max_batch: int,
        max_queue: int,
        decode_threads: int,
        cache_entries: int,
        limits: ImageLimits,
    ) -> None:
        self.encoder = encoder
        self._limits = limits
        permits = max_queue + max_batch
        self._batcher: Batcher[_Photograph | _Text, Vector] = Batcher(
            self._run, name="encoder", max_batch=max_batch, max_queue=permits, key=type
        )
        self._pool = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._recent: Recent[Hashable, Vector] = Recent(cache_entries)
        self._flights: AdmittedFlights[Embedded] = AdmittedFlights(
            name="encoder", permits=permits, estimated_wait_s=self._batcher.estimated_wait_s
        )

    @property
    def alive(self) -> bool:
        """Whether the model's thread runs."""
        return self._batcher.alive

    @property
    def in_flight(self) -> int:
        """How many photographs and texts are being decoded, waiting and computed; equal ones count once."""
        return len(self._flights)

    async def photograph(
        self, content: bytes, *, deadline: float | None, known: Callable[[str], Vector | None]
    ) -> Embedded:
        """Returns the embedding of an encoded photograph.

        `known` returns the embedding of a photograph by its sha256 where a release has it. `deadline` is in seconds
        of time.monotonic().

        Raises:
            InvalidImage: it is not a photograph within the limits.
            Overloaded: no permit is free.
            QueuedTooLong: the deadline would pass before its turn.
            DeviceMemory: the batch does not fit into the device's memory.
        """
        # Not in the decoding threads: whoever is to be refused, or is known, must not wait behind those being decoded.
        identity = sha256(content) if len(content) < _HASHED_INLINE else await asyncio.to_thread(sha256, content)
        vector = self._recent.get(identity)
        if vector is None:
            vector = known(identity)
        if vector is not None:
            return Embedded(vector, cached=True)
        return await self._flights.join(identity, lambda: self._embed_photograph(identity, content), deadline)

    async def text(self, text: str, *, deadline: float | None) -> Embedded:
        """Returns the embedding of a text of 1 to 1,000 characters; see `photograph` for the other errors.

        Raises:
            InvalidText: the text is blank or too long.
        """
        if not text.strip():
            raise InvalidText("The text is empty; describe in a few words what to look for.", field="text")
        if len(text) > MAX_TEXT_CHARS:
            raise InvalidText(f"The text has {len(text):,} characters; send at most {MAX_TEXT_CHARS:,}.", field="text")
        key = ("text", text)
        vector = self._recent.get(key)
        if vector is not None:
            return Embedded(vector, cached=True)
        return await self._flights.join(key, lambda: self._embed_text(key, text), deadline)

    async def warm_up(self) -> None:
        """Runs both towers once, so that the first caller does not pay for what they prepare."""
        tokens = await self._in_thread(self.encoder.tokenize, "a photograph")
        pixels = await self._in_thread(self.encoder.pixels, Image.new("RGB", (256, 256)))
        for item in (_Photograph(pixels), _Text(tokens)):
            await self._batcher.submit(item)

    async def close(self) -> None:
        """Answers what waits, then ends the threads."""
        await self._batcher.close()
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

    async def _embed_photograph(self, identity: str, content: bytes) -> Embedded:
        def prepare() -> tuple[Pixels, float]:
            started = time.perf_counter()
            pixels = self.encoder.pixels(self.encoder.photograph(content, self._limits))
            return pixels, time.perf_counter() - started

        pixels, decode_s = await self._in_thread(prepare)
        return await self._embed(identity, _Photograph(pixels), decode_s)

    async def _embed_text(self, key: Hashable, text: str) -> Embedded:
        started = time.perf_counter()
        tokens = await self._in_thread(self.encoder.tokenize, text)
        return await self._embed(key, _Text(tokens), time.perf_counter() - started)

    async def _embed(self, key: Hashable, item: _Photograph | _Text, decode_s: float) -> Embedded:
        vector, measured = await self._batcher.submit_measured(item)
        self._recent.put(key, vector)
        return Embedded(vector, False, decode_s, measured.queue_s, measured.compute_s)

    def _run(self, items: list[_Photograph | _Text]) -> Sequence[Vector]:
        """Runs on the batcher's thread; all items are of one kind."""
        photographs = [item.pixels for item in items if isinstance(item, _Photograph)]
        if photographs:
            rows = self.encoder.forward_images(photographs)
        else:
            rows = self.encoder.forward_texts([item.tokens for item in items if isinstance(item, _Text)])
        # Each by itself: one that is remembered must not keep the whole batch in memory.
        return [row.copy() for row in rows]

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        # A caller who leaves takes what has not begun out of the pool's queue.
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
