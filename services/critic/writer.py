"""The rows that are being written: reading prompts into slots, one token a row and step, ending rows.

Everything here belongs to the engine's thread; events for callers are put into `outbox`.
"""

from __future__ import annotations

import collections
import logging
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from services.core.errors import DeviceMemory, EngineStopped, QueuedTooLong
from services.critic.decoder import SlotDecoder
from services.critic.detokenize import TextAssembler
from services.critic.engine import Completed, Delta, Event, Finish, Generation, Started
from services.critic.kv import KvPool
from services.critic.model import Prompt, VisionFeatures, VisionLanguageModel
from services.critic.sampling import Sampler, SamplingParams, choose
from services.critic.structured import JsonGrammar
from services.critic.vision_cache import VisionCache

log = logging.getLogger(__name__)

_NOT_FINITE = "the model's output is not finite"
_NO_MEMORY = "The critic's device has too little free memory for this request: try again, or send a smaller one."


@dataclass(frozen=True)
class EngineOptions:
    """How much the engine takes on.

    `slots`: critiques written at once; `max_tokens`: tokens of prompt and critique together that a slot holds;
    `max_queue`: requests that may wait for a slot; `prefill_tokens`: tokens of prompts read in one turn, so that
    reading does not stall writing; `vision_cache_bytes`: photographs kept; `stall_s`: seconds without a finished turn
    after which a busy engine counts as unhealthy.
    """

    slots: int = 8
    max_tokens: int = 2048
    max_queue: int = 64
    prefill_tokens: int = 4096
    vision_cache_bytes: int = 256 * 1024 * 1024
    stall_s: float = 120.0


@dataclass(eq=False)
class Row:
    """A request, from submission to its end. Times in seconds on `time.monotonic`'s clock."""

    prompt: Prompt
    limit: int
    adapter: str | None
    deadline: float | None
    generation: Generation
    sampler: Sampler
    assembler: TextAssembler
    submitted: float = field(default_factory=time.monotonic)
    tokens: list[int] = field(default_factory=list)
    # Tokens whose keys and values are in the slot, and the position of the token to be added.
    length: int = 0
    position: int = 0
    admitted: float = 0.0
    started: float = 0.0

    def given_up(self, now: float) -> bool:
        """Returns whether nobody waits for it any more."""
        return self.generation.cancelled or (self.deadline is not None and now >= self.deadline)


class Writer:
    """Row i of `rows` is in slot i; `adapters` are the LoRA slots by the adapters' keys."""

    def __init__(self, model: VisionLanguageModel, options: EngineOptions) -> None:
        config = model.network.config.text_config
        self.pool = KvPool(
            layers=config.num_hidden_layers, slots=options.slots, kv_heads=config.num_key_value_heads,
            max_tokens=options.max_tokens, head_dim=config.head_dim, device=model.device, dtype=model.dtype,
        )  # fmt: skip
        self.decoder = SlotDecoder(model.language, self.pool)
        self.vision = VisionCache(options.vision_cache_bytes)
        self.grammar = JsonGrammar(model.tokenizer, config.vocab_size, model.end_ids)
        self.adapters: dict[str, int] = {}
        self.rows: list[Row] = []
        self.outbox: list[tuple[Generation, Event | Exception]] = []
        self.counts: collections.Counter[str] = collections.Counter()
        # How long a row holds its slot, smoothed; 0 until one has ended.
        self.row_seconds = 0.0
        self._model = model

    def row(
        self, prompt: Prompt, params: SamplingParams, limit: int, adapter: str | None, deadline: float | None,
        generation: Generation,
    ) -> Row:  # fmt: skip
        """Returns a request that is not in a slot yet; callable from any thread."""
        guide = self.grammar.guide(limit) if params.json else None
        sampler = Sampler(params, prompt.token_ids, self._model.device, guide)
        return Row(prompt, limit, adapter, deadline, generation, sampler, TextAssembler(self._model.tokenizer))

    def read(self, group: Sequence[Row]) -> None:
        """Reads the prompts of `group` into free slots and writes their first tokens.

        A request that cannot be read fails alone: the group is halved until it is found.
        """
        admitted = time.monotonic()
        try:
            logits = self.decoder.prefill(
                [row.prompt for row in group], self._features(group), self._lora_slots(group), len(self.rows)
            )
            if not torch.isfinite(logits).all():
                first = len(self.rows)
                self.pool.clear(slice(first, first + len(group)))
                raise FloatingPointError(_NOT_FINITE)
            tokens = choose(logits, [row.sampler for row in group])
        except Exception as error:
            self._not_read(group, error)
            return
        started = time.monotonic()
        for row in group:
            row.admitted, row.started = admitted, started
            row.length, row.position = len(row.prompt.token_ids), row.prompt.next_position
            self.outbox.append((row.generation, Started(admitted - row.submitted, started - admitted)))
        first = len(self.rows)
        self.rows.extend(group)
        self._take(range(first, len(self.rows)), tokens)

    def _not_read(self, group: Sequence[Row], error: Exception) -> None:
        if isinstance(error, torch.AcceleratorError):  # the device itself is broken for this process
            for row in group:
                self.fail(row, EngineStopped("The critic's device has failed; this replica is being replaced."))
            raise error
        short = out_of_memory(error)
        if short:
            self.give_memory_back(error)
        if len(group) > 1:
            middle = len(group) // 2
            self.read(group[:middle])
            self.read(group[middle:])
        elif short:
            self.fail(group[0], DeviceMemory(_NO_MEMORY))
        else:
            log.error("a prompt could not be read: %s", type(error).__name__, exc_info=error)
            self.fail(group[0], error)

    def _features(self, group: Sequence[Row]) -> list[VisionFeatures]:
        """Returns the photographs' features; one seen before, or twice in the group, is computed once."""
        images = {row.prompt.image.key: row.prompt.image for row in group}
        found = {key: features for key in images if (features := self.vision.features(key))}
        missing = [image for key, image in images.items() if key not in found]
        if missing:
            for image, features in zip(missing, self._model.features(missing), strict=True):
                self.vision.put(image, features)
                found[image.key] = features
        return [found[row.prompt.image.key] for row in group]

    def _lora_slots(self, rows: Sequence[Row]) -> list[int | None]:
        return [None if row.adapter is None else self.adapters[row.adapter] for row in rows]

    def write(self) -> None:
        """Adds one token to every row. Short of memory, the latest rows go, until the rest fits."""
        while self.rows:
            rows = self.rows
            try:
                logits = self.decoder.decode(
                    [row.tokens[-1] for row in rows], [row.length for row in rows], [row.position for row in rows],
                    self._lora_slots(rows),
                )  # fmt: skip
            except Exception as error:
                if not out_of_memory(error):
                    raise
                latest = max(range(len(rows)), key=lambda index: rows[index].submitted)
                self.fail(rows[latest], DeviceMemory(_NO_MEMORY))
                self._release(latest)
                self.give_memory_back(error)
                continue
            for row in rows:
                row.length += 1
                row.position += 1
            self.counts["steps"] += 1
            finite = torch.isfinite(logits.amax(-1)).tolist()
            self._take(range(len(rows)), choose(logits, [row.sampler for row in rows]), finite)
            return

    def _take(self, indexes: range, tokens: Sequence[int], finite: Sequence[bool] | None = None) -> None:
        """Gives rows their new tokens, and ends those that are complete or, of a step, not `finite`."""
        self.counts["tokens"] += len(tokens)
        # From the last to the first: a row that ends is replaced by one that was dealt with already.
        for index, token in zip(reversed(indexes), reversed(tokens), strict=True):
            row = self.rows[index]
            if finite is not None and not finite[index]:
                self.fail(row, FloatingPointError(_NOT_FINITE))
                self.pool.clear(slice(index, index + 1))
                self._release(index)
                continue
            token = row.sampler.settle(token)
            row.tokens.append(token)
            text = "" if token in self._model.end_ids else row.assembler.push(token)
            if text:
                self.outbox.append((row.generation, Delta(text)))
            finish = self._finish(row)
            if finish is not None:
                self._complete(row, finish)
                self._release(index)

    def _finish(self, row: Row) -> Finish | None:
        """Returns why a row has ended, None where it goes on."""
        guide = row.sampler.guide
        if guide is not None:
            return None if not guide.complete else Finish.LENGTH if guide.cut else Finish.STOP
        if row.tokens[-1] in self._model.end_ids:
            return Finish.STOP
        return Finish.LENGTH if len(row.tokens) >= row.limit else None

    def _complete(self, row: Row, finish: Finish) -> None:
        rest = row.assembler.flush()
        if rest:
            self.outbox.append((row.generation, Delta(rest)))
        now = time.monotonic()
        held = now - row.admitted
        self.row_seconds = held if not self.row_seconds else 0.9 * self.row_seconds + 0.1 * held
        self.counts["finished"] += 1
        completed = Completed(
            finish, tuple(row.tokens), len(row.prompt.token_ids), row.prompt.image.tokens,
            queue_s=row.admitted - row.submitted, prefill_s=row.started - row.admitted,
            first_token_s=row.started - row.submitted, decode_s=now - row.started,
        )  # fmt: skip
        self.outbox.append((row.generation, completed))

    def reap(self, now: float) -> None:
        """Frees the slots of rows that nobody waits for any more."""
        for index in reversed(range(len(self.rows))):
            row = self.rows[index]
            if row.given_up(now):
                self.drop(row, f"writing, after {len(row.tokens)} tokens")
                self._release(index)

    def drop(self, row: Row, doing: str) -> None:
        """Ends a row that was given up: silently when cancelled, else because its deadline passed while `doing`."""
        if row.generation.cancelled:
            self.counts["cancelled"] += 1
        else:
            self.fail(row, QueuedTooLong(f"The deadline passed while {doing}: allow more time."))

    def fail(self, row: Row, error: Exception) -> None:
        """Tells a row's reader what ended it."""
        self.counts["failed"] += 1
        self.outbox.append((row.generation, error))

    def _release(self, index: int) -> None:
        """Frees a slot; the last row moves into it, so that rows stay side by side."""
        last = self.rows.pop()
        if index < len(self.rows):
            self.pool.move(len(self.rows), index, last.length)
            self.rows[index] = last

    def give_memory_back(self, error: BaseException) -> None:
        """Frees what can be computed again, and what was being computed when the memory ran out."""
        # An error holds the frames that it came through, and they hold half a pass of the network.
        traceback.clear_frames(error.__traceback__)
        self.vision.clear()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that memory is short, on a GPU or on a CPU (where torch has no class for it)."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
