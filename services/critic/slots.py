"""Iteration-level (continuous) batching: one thread owns the model and writes all critiques side by side.

Each turn of the loop lets new requests in, reads their prompts together, adds one token to every row, hands the text
over, and frees the rows that have ended (Yu et al. 2022, "Orca"). A request never waits for another one to finish,
only for a slot.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable

import torch
from PIL import Image

from services.core.errors import DeviceMemory, EngineStopped, InvalidArgument, Overloaded
from services.critic.engine import AdapterNotLoaded, EngineStats, Event, Generation
from services.critic.graphs import Record
from services.critic.lora import AdapterWeights
from services.critic.model import Prompt, VisionLanguageModel
from services.critic.sampling import SamplingParams
from services.critic.writer import EngineOptions, Row, Writer, out_of_memory

log = logging.getLogger(__name__)

_Future = concurrent.futures.Future


class SlotEngine:
    """The `Engine` over a `VisionLanguageModel`; `start` begins its thread."""

    def __init__(self, model: VisionLanguageModel, options: EngineOptions, *, record: Record | None = None) -> None:
        """`record` turns decode steps into what a GPU runs as one, see `services.critic.graphs`; None: not so."""
        self._model = model
        self._options = options
        self._writer = Writer(model, options)
        if record is not None:
            self._writer.decoder.record_steps(record)
        # Shared between threads, under the condition's lock.
        self._changed = threading.Condition()
        self._waiting: collections.deque[Row] = collections.deque()
        self._reading = 0
        self._commands: collections.deque[tuple[Callable[[], None], _Future[None]]] = collections.deque()
        self._leaving: dict[str, _Future[None]] = {}
        self._stopped: str | None = None
        self._closing = False
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._supervise, name="critic-engine", daemon=True)

    def start(self) -> None:
        """Begins the engine's thread."""
        self._thread.start()

    def prepare(self, image: Callable[[], Image.Image], key: str, write: Callable[[int], str]) -> Prompt:
        """See `Engine`."""
        inputs = self._writer.vision.inputs(key) or self._model.vision_inputs(image(), key)
        return self._model.prompt(inputs, write)

    def submit(
        self, prompt: Prompt, params: SamplingParams, *, adapter: str | None = None, deadline: float | None = None
    ) -> Generation:
        """See `Engine`."""
        room = self._options.max_tokens - len(prompt.token_ids)
        if room < 1:
            raise InvalidArgument(
                f"The photograph and the instruction make {len(prompt.token_ids)} tokens of at most "
                f"{self._options.max_tokens - 1}: send a shorter instruction.",
                field="instruction",
            )
        limit = min(params.max_tokens, room)
        if params.json and limit < (least := self._writer.grammar.least_tokens):
            raise InvalidArgument(
                f"JSON takes at least {least} tokens, and {limit} are allowed: raise max_tokens, or send a shorter "
                "instruction.",
                field="generation_config.max_tokens",
            )
        row = self._writer.row(prompt, params, limit, adapter, deadline, Generation(self._wake))
        with self._changed:
            self._refuse_if_stopped()
            if adapter is not None and (adapter not in self._writer.adapters or adapter in self._leaving):
                raise AdapterNotLoaded(adapter)
            self._refuse_if_full(deadline)
            self._waiting.append(row)
            self._changed.notify()
        return row.generation

    def _refuse_if_stopped(self) -> None:
        if self._stopped is not None:
            raise EngineStopped(self._stopped)

    def _refuse_if_full(self, deadline: float | None) -> None:
        """Refuses a request that would find no place, or find it too late. Under the lock."""
        writing, waiting = len(self._writer.rows), len(self._waiting)
        free = self._options.slots - writing
        wait = max(0.0, self._writer.row_seconds * (waiting - free + 1) / self._options.slots)
        if waiting >= self._options.max_queue + free:
            raise Overloaded(
                f"The critic is writing {writing} critiques and {waiting} wait: try again later.",
                retry_after_s=max(0.1, wait),
            )
        if deadline is not None and deadline - time.monotonic() < wait:
            raise Overloaded(
                f"A place would be free in about {wait:.1f} s, after the deadline: try again, or allow more time.",
                retry_after_s=max(0.1, wait),
            )

    async def load_adapter(self, key: str, weights: AdapterWeights) -> None:
        """See `Engine`."""

        def load() -> None:
            if key not in self._writer.adapters:
                self._writer.adapters[key] = self._writer.decoder.lora.load(weights)

        await self._between_turns(load)

    async def turn(self) -> None:
        """Waits until the engine is between two turns. Raises `EngineStopped`."""
        await self._between_turns(lambda: None)

    async def _between_turns(self, action: Callable[[], None]) -> None:
        future: _Future[None] = _Future()
        with self._changed:
            self._refuse_if_stopped()
            self._commands.append((action, future))
            self._changed.notify()
        await asyncio.wrap_future(future)

    async def unload_adapter(self, key: str) -> None:
        """See `Engine`."""
        with self._changed:
            self._refuse_if_stopped()
            if key not in self._writer.adapters:
                return
            gone: _Future[None] = self._leaving.setdefault(key, _Future())
            self._changed.notify()
        # Others may wait for the same adapter: one of them giving up leaves the rest waiting.
        await asyncio.shield(asyncio.wrap_future(gone))

    def stats(self) -> EngineStats:
        """See `Engine`."""
        writer, counts = self._writer, self._writer.counts
        waiting = len(self._waiting) + self._reading
        return EngineStats(
            rows=len(writer.rows), waiting=waiting, slots=self._options.slots,
            adapters=len(writer.adapters), steps=counts["steps"], tokens=counts["tokens"],
            finished=counts["finished"], cancelled=counts["cancelled"], failed=counts["failed"],
            adapter_bytes=writer.decoder.lora.nbytes, vision_cache_bytes=writer.vision.nbytes,
        )  # fmt: skip

    def healthy(self) -> bool:
        """See `Engine`."""
        busy = bool(self._waiting or self._reading or self._writer.rows)
        stalled = busy and time.monotonic() - self._beat > self._options.stall_s
        return self._thread.is_alive() and self._stopped is None and not stalled

    async def close(self) -> None:
        """See `Engine`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    # The rest runs in the engine's thread.

    def _supervise(self) -> None:
        """Runs until closed; whatever ends the thread, nobody is left waiting."""
        reason = "The critic is shutting down: call another replica."
        try:
            with torch.inference_mode():
                while self._turn():
                    pass
        except BaseException as error:
            reason = "The critic's engine has failed and this replica is being replaced: try again."
            log.critical("the engine's thread ended: %s", type(error).__name__, exc_info=True)
        with self._changed:
            self._stopped = reason
            left = [*self._writer.rows, *self._waiting]
            futures = [*(future for _, future in self._commands), *self._leaving.values()]
            self._writer.rows.clear()
            self._waiting.clear()
            self._commands.clear()
            self._leaving.clear()
        for row in left:
            self._writer.fail(row, EngineStopped(reason))
        self._send()
        for future in futures:
            if future.set_running_or_notify_cancel():
                future.set_exception(EngineStopped(reason))

    def _turn(self) -> bool:
        """Does one turn; returns False when the engine is to end."""
        with self._changed:
            while not (self._waiting or self._writer.rows or self._commands or self._leaving or self._closing):
                self._changed.wait()
                self._beat = time.monotonic()
            if self._closing:
                return False
            commands = list(self._commands)
            self._commands.clear()
        for action, future in commands:
            self._obey(action, future)
        self._reap()
        self._read_prompts()
        self._writer.write()
        self._send()
        self._free_adapters()
        self._beat = time.monotonic()
        return True

    def _obey(self, action: Callable[[], None], future: _Future[None]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            action()
        except Exception as error:
            if out_of_memory(error):
                self._writer.give_memory_back(error)
                error = DeviceMemory("The critic's device has too little memory for another adapter.")
            future.set_exception(error)
        else:
            future.set_result(None)

    def _reap(self) -> None:
        """Drops the requests that were cancelled or whose deadline has passed, waiting or being written."""
        now = time.monotonic()
        with self._changed:
            dropped = [row for row in self._waiting if row.given_up(now)]
            self._keep_waiting(dropped)
        for row in dropped:
            self._writer.drop(row, "waiting for a place")
        self._writer.reap(now)

    def _keep_waiting(self, without: list[Row]) -> None:
        if without:
            gone = set(map(id, without))
            self._waiting = collections.deque(row for row in self._waiting if id(row) not in gone)

    def _read_prompts(self) -> None:
        """Reads as many waiting prompts as slots and the turn's budget allow."""
        budget = self._options.prefill_tokens
        while budget > 0 and (group := self._next_group(budget)):
            budget -= len(group) * len(group[0].prompt.token_ids)
            self._writer.read(group)
            self._reading = 0
            self._send()

    def _next_group(self, budget: int) -> list[Row]:
        """Takes the longest-waiting request, and with it others of about the same length."""
        with self._changed:
            free = self._options.slots - len(self._writer.rows)
            if not (free and self._waiting):
                return []
            width = len(self._waiting[0].prompt.token_ids)
            room = max(1, min(free, budget // width))
            # Shorter prompts are padded to the first one's length: up to a quarter of waste is worth one pass.
            group = [row for row in self._waiting if 0.75 * width <= len(row.prompt.token_ids) <= width][:room]
            # Counted before it leaves the queue, so that whoever looks in between finds it somewhere.
            self._reading = len(group)
            self._keep_waiting(group)
            return group

    def _free_adapters(self) -> None:
        """Frees the adapters that are leaving and that no request needs any more."""
        with self._changed:
            needed = {row.adapter for row in (*self._writer.rows, *self._waiting)}
            gone = [key for key in self._leaving if key not in needed]
            freed = [(self._writer.adapters.pop(key), self._leaving.pop(key)) for key in gone]
        for slot, future in freed:
            self._obey(lambda slot=slot: self._writer.decoder.lora.unload(slot), future)  # type: ignore[misc]

    def _send(self) -> None:
        """Hands the events over, one call for each event loop."""
        outbox, self._writer.outbox = self._writer.outbox, []
        loops: dict[asyncio.AbstractEventLoop, list[tuple[Generation, Event | Exception]]] = {}
        for generation, event in outbox:
            loops.setdefault(generation.loop, []).append((generation, event))
        for loop, events in loops.items():
            try:
                loop.call_soon_threadsafe(_deliver, events)
            except RuntimeError:  # the loop is closed: nobody reads these
                for generation, _ in events:
                    generation.cancelled = True


def _deliver(events: list[tuple[Generation, Event | Exception]]) -> None:
    for generation, event in events:
        generation.deliver(event)
