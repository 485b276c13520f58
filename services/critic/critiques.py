"""From a request to a critique that is being written: who writes it, with what prompt, and whether there is room."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from dataclasses import dataclass

from services.core.errors import InvalidArgument, Overloaded
from services.core.images import reading
from services.core.settings import available_cpus
from services.critic import prompts
from services.critic.adapters import AdapterRegistry, Voice
from services.critic.engine import AdapterNotLoaded, Engine, Generation
from services.critic.model import Prompt, VisionLanguageModel
from services.critic.prompts import Form
from services.critic.sampling import SamplingParams
from services.critic.settings import CriticSettings


@dataclass(frozen=True)
class Asked:
    """A request in the service's own terms; `content` is the encoded photograph, `context` the grounding or None,
    `titles` the references in it, which alone may be named."""

    content: bytes
    advisor: str
    instruction: str
    context: str | None
    titles: tuple[str, ...]
    params: SamplingParams
    deadline: float | None
    form: Form = Form.PROSE


@dataclass(frozen=True)
class Writing:
    """A critique that has been queued, and who writes it. `prepared_s`: seconds from arrival to the queue."""

    voice: Voice
    generation: Generation
    prepared_s: float
    asked: Asked


class Critiques:
    """Begins critiques; a slot of the engine has room for `slot_tokens`."""

    def __init__(
        self,
        model: VisionLanguageModel,
        engine: Engine,
        registry: AdapterRegistry,
        slot_tokens: int,
        settings: CriticSettings,
    ) -> None:
        self.engine = engine
        self.registry = registry
        self._model = model
        self._slot_tokens = slot_tokens
        self._settings = settings
        self._preparing = 0
        self._threads = concurrent.futures.ThreadPoolExecutor(
            settings.preparing_threads or available_cpus(), thread_name_prefix="critic-prepare"
        )

    def close(self) -> None:
        """Ends the threads that prepare."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def begin(self, asked: Asked) -> Writing:
        """Queues a critique. Raises what `Engine.prepare` and `Engine.submit` raise."""
        arrived = time.monotonic()
        self._refuse_if_full()
        self._preparing += 1
        try:
            loop = asyncio.get_running_loop()
            prompt = await loop.run_in_executor(self._threads, self._prompt, asked)
        finally:
            self._preparing -= 1
        voice, generation = await self._submit(asked, prompt)
        return Writing(voice, generation, time.monotonic() - arrived, asked)

    def _refuse_if_full(self) -> None:
        """Refuses early, before the photograph is decoded, what would be refused anyway."""
        stats = self.engine.stats()
        if stats.rows + stats.waiting + self._preparing >= stats.slots + self._settings.max_queue:
            raise Overloaded(
                f"The critic has {stats.rows + stats.waiting + self._preparing} requests: try again later.",
                retry_after_s=1.0,
            )

    def _prompt(self, asked: Asked) -> Prompt:
        """Decodes and prepares; in a thread of its own."""
        limits, short_side = reading.ImageLimits.of(self._settings), self._model.useful_side

        def write(image_tokens: int) -> str:
            return self._words(asked, image_tokens)

        try:
            return self.engine.prepare(
                lambda: reading.decode(asked.content, short_side=short_side, limits=limits),
                reading.sha256(asked.content),
                write,
            )
        except prompts.InstructionTooLongError as error:
            raise InvalidArgument(str(error), field="instruction") from error

    def _words(self, asked: Asked, image_tokens: int) -> str:
        """Returns the whole prompt, without the last lines of the grounding where the critique would have no room.

        Characters do not tell how many tokens they are: a title in another script takes four times as many.
        """
        lines = (asked.context or "").splitlines()
        room = self._slot_tokens - min(asked.params.max_tokens, self._settings.default_tokens)
        while True:
            text = prompts.prompt_text(
                asked.instruction, image_tokens=image_tokens, context="\n".join(lines), form=asked.form
            )
            if not lines or self._model.count(text) <= room:
                return text
            lines.pop()

    async def _submit(self, asked: Asked, prompt: Prompt) -> tuple[Voice, Generation]:
        voice = await self.registry.voice(asked.advisor)
        # An adapter may be replaced between being found and being used; the next look finds its successor.
        for _ in range(3):
            with contextlib.suppress(AdapterNotLoaded):
                return voice, self.engine.submit(prompt, asked.params, adapter=voice.key, deadline=asked.deadline)
            voice = await self.registry.voice(asked.advisor)
        voice = Voice(None, reason=f"The adapter for {asked.advisor!r} is being replaced.")
        return voice, self.engine.submit(prompt, asked.params, deadline=asked.deadline)
