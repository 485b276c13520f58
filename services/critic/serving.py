"""What the critic's servicer answers from: the model, the engine around it, the adapters it follows."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Final

import torch
from PIL import Image

from services.core.errors import ConfigurationError, InvalidArgument, NotReady, Overloaded
from services.core.images import reading
from services.core.models.devices import prepare_device
from services.core.settings import available_cpus
from services.critic import adapter_format, memory, prompts
from services.critic import model as models
from services.critic.adapter_format import AdapterLimits
from services.critic.adapters import AdapterRegistry, Budget, Voice
from services.critic.checkpoint import model_files
from services.critic.engine import AdapterNotLoaded, Engine, Generation
from services.critic.graphs import record_cuda_graph
from services.critic.model import Prompt, VisionLanguageModel
from services.critic.prompts import Form
from services.critic.sampling import SamplingParams
from services.critic.settings import CriticSettings
from services.critic.slots import SlotEngine
from services.critic.writer import EngineOptions

log = logging.getLogger("mondrian.critic")

# Below this, bfloat16 saves no time on a CPU, and float32 writes the same words whatever is written beside them.
_SMALL_WEIGHTS: Final = 256 * 1024**2
_PROOF: Final = SamplingParams(max_tokens=4)


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


class Serving:
    """What the servicer answers from; nothing is there until `load` is done."""

    def __init__(self, settings: CriticSettings) -> None:
        self._settings = settings
        self._model: VisionLanguageModel | None = None
        self._engine: Engine | None = None
        self._registry: AdapterRegistry | None = None
        self._watching: asyncio.Task[None] | None = None
        self._slot_tokens = 0
        self._preparing = 0
        self._threads = concurrent.futures.ThreadPoolExecutor(
            settings.preparing_threads or available_cpus(), thread_name_prefix="critic-prepare"
        )

    async def load(self) -> None:
        """Loads the model, writes a first critique, and loads the adapters.

        Raises `ConfigurationError` when the model cannot be used; an adapter that cannot is refused alone.
        """
        settings = self._settings
        model = await asyncio.to_thread(load_model, settings)
        options = memory.fit(model, engine_options(settings), int(settings.adapters_max_bytes))
        engine = SlotEngine(model, options, record=record_cuda_graph if settings.cuda_graphs else None)
        engine.start()
        self._model, self._engine, self._slot_tokens = model, engine, options.max_tokens
        proof = await asyncio.to_thread(self._proof, engine)
        await _prove(engine, proof, None)
        self._registry = AdapterRegistry(
            settings.adapters_folder,
            engine,
            adapter_format.base_of(model.network, name=model.name, fingerprint=model.fingerprint),
            model.dtype,
            limits=AdapterLimits(settings.adapter_max_rank, int(settings.adapters_max_bytes)),
            budget=Budget(
                int(settings.adapters_max_bytes), settings.adapters_max_loaded, frozenset(settings.adapters_pinned)
            ),
            prove=lambda key: _prove(engine, proof, key),
        )
        await self._registry.reconcile()
        self._watching = asyncio.create_task(self._registry.watch(settings.adapters_poll_s))

    @staticmethod
    def _proof(engine: Engine) -> Prompt:
        """Returns the prompt of the first critique: a grey square."""
        return engine.prepare(
            lambda: Image.new("RGB", (256, 256), (128, 128, 128)),
            "grey",
            lambda tokens: prompts.prompt_text(image_tokens=tokens),
        )

    async def close(self) -> None:
        """Gives everything back."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        if self._engine is not None:
            await self._engine.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs, or is not needed yet."""
        return self._engine is None or self._engine.healthy()

    @property
    def model_name(self) -> str:
        """The base model's name."""
        return self._settings.served_name

    def engine(self) -> Engine:
        """Returns the engine. Raises `NotReady` while it is being loaded."""
        if self._engine is None or self._registry is None:
            raise NotReady("The model is still being loaded; try again in a few seconds.")
        return self._engine

    def registry(self) -> AdapterRegistry:
        """Returns the adapters. Raises `NotReady` while the model is being loaded."""
        if self._registry is None:
            raise NotReady("The model is still being loaded; try again in a few seconds.")
        return self._registry

    async def begin(self, asked: Asked) -> Writing:
        """Queues a critique. Raises what `Engine.prepare` and `Engine.submit` raise."""
        arrived = time.monotonic()
        engine, registry = self.engine(), self.registry()
        self._refuse_if_full(engine)
        self._preparing += 1
        try:
            loop = asyncio.get_running_loop()
            prompt = await loop.run_in_executor(self._threads, self._prompt, engine, asked)
        finally:
            self._preparing -= 1
        voice, generation = await self._submit(engine, registry, asked, prompt)
        return Writing(voice, generation, time.monotonic() - arrived, asked)

    def _refuse_if_full(self, engine: Engine) -> None:
        """Refuses early, before the photograph is decoded, what would be refused anyway."""
        stats = engine.stats()
        if stats.rows + stats.waiting + self._preparing >= stats.slots + self._settings.max_queue:
            raise Overloaded(
                f"The critic has {stats.rows + stats.waiting + self._preparing} requests: try again later.",
                retry_after_s=1.0,
            )

    def _prompt(self, engine: Engine, asked: Asked) -> Prompt:
        """Decodes and prepares; in a thread of its own."""
        assert self._model is not None
        limits, short_side = reading.ImageLimits.of(self._settings), self._model.useful_side

        def write(image_tokens: int) -> str:
            return self._words(asked, image_tokens)

        try:
            return engine.prepare(
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
        assert self._model is not None
        lines = (asked.context or "").splitlines()
        room = self._slot_tokens - min(asked.params.max_tokens, self._settings.default_tokens)
        while True:
            text = prompts.prompt_text(
                asked.instruction, image_tokens=image_tokens, context="\n".join(lines), form=asked.form
            )
            if not lines or self._model.count(text) <= room:
                return text
            lines.pop()

    async def _submit(
        self, engine: Engine, registry: AdapterRegistry, asked: Asked, prompt: Prompt
    ) -> tuple[Voice, Generation]:
        voice = await registry.voice(asked.advisor)
        # An adapter may be replaced between being found and being used; the next look finds its successor.
        for _ in range(3):
            with contextlib.suppress(AdapterNotLoaded):
                return voice, engine.submit(prompt, asked.params, adapter=voice.key, deadline=asked.deadline)
            voice = await registry.voice(asked.advisor)
        voice = Voice(None, reason=f"The adapter for {asked.advisor!r} is being replaced.")
        return voice, engine.submit(prompt, asked.params, deadline=asked.deadline)


def load_model(settings: CriticSettings) -> VisionLanguageModel:
    """Returns the model that the settings name, on their device. Raises `ConfigurationError`."""
    files = model_files(settings.model_folder)
    device, dtype = prepare_device(settings)
    if settings.cuda_graphs and device.type != "cuda":
        raise ConfigurationError(
            "MONDRIAN_CRITIC_CUDA_GRAPHS is on and the critic runs on the CPU: give it a GPU, or turn the graphs off."
        )
    small = sum(path.stat().st_size for path in files) <= _SMALL_WEIGHTS
    if settings.dtype == "auto" and device.type == "cpu" and small:
        dtype = torch.float32
    return models.load(
        settings.model_folder,
        device=device,
        dtype=dtype,
        name=settings.served_name,
        max_image_tokens=settings.max_image_tokens,
    )


def engine_options(settings: CriticSettings) -> EngineOptions:
    """Returns how much the engine is to take on."""
    return EngineOptions(
        slots=settings.max_batch,
        max_tokens=settings.max_context_tokens,
        max_queue=settings.max_queue,
        prefill_tokens=settings.prefill_tokens,
        vision_cache_bytes=int(settings.vision_cache_bytes),
    )


async def _prove(engine: Engine, prompt: Prompt, key: str | None) -> None:
    """Writes a few tokens with an adapter (None: the base model)."""
    while True:
        try:
            generation = engine.submit(prompt, _PROOF, adapter=key)
        except Overloaded as error:  # clients come first; a newcomer waits for a place
            await asyncio.sleep(error.retry_after_s or 0.1)
            continue
        async for _ in generation:
            pass
        return
