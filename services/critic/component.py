"""The critic as its server sees it: the model, the engine around it, the adapters that it follows."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import grpc.aio
from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc
from PIL import Image

from services.core.errors import NotReady, Overloaded
from services.critic import adapter_format, memory, prompts
from services.critic.adapter_format import AdapterLimits
from services.critic.adapters import AdapterRegistry, Budget
from services.critic.critiques import Critiques
from services.critic.engine import Engine
from services.critic.graphs import record_cuda_graph
from services.critic.loading import engine_options, load_model
from services.critic.model import Prompt
from services.critic.sampling import SamplingParams
from services.critic.servicer import CriticServicer
from services.critic.settings import CriticSettings
from services.critic.slots import SlotEngine

_PROOF: Final = SamplingParams(max_tokens=4)


class CriticComponent:
    """A services.core.rpc.server.Component."""

    service_name: Final[str] = critic_pb2.DESCRIPTOR.services_by_name["CriticService"].full_name

    def __init__(self, settings: CriticSettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._critiques: Critiques | None = None
        self._watching: asyncio.Task[None] | None = None

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer; until the model is loaded it answers UNAVAILABLE."""
        critic_pb2_grpc.add_CriticServiceServicer_to_server(CriticServicer(self.critiques, self._settings), server)

    async def start(self) -> None:
        """Loads the model, writes a first critique, and loads the adapters.

        Raises `ConfigurationError` when the model cannot be used; an adapter that cannot is refused alone.
        """
        settings = self._settings
        model = await asyncio.to_thread(load_model, settings)
        options = memory.fit(model, engine_options(settings), int(settings.adapters_max_bytes))
        engine = SlotEngine(model, options, record=record_cuda_graph if settings.cuda_graphs else None)
        engine.start()
        self._engine = engine
        proof = await asyncio.to_thread(_proof, engine)
        await _prove(engine, proof, None)
        registry = AdapterRegistry(
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
        self._critiques = Critiques(model, engine, registry, options.max_tokens, settings)
        await registry.reconcile()
        self._watching = asyncio.create_task(registry.watch(settings.adapters_poll_s))

    def critiques(self) -> Critiques:
        """Returns what begins critiques. Raises `NotReady` while the model is being loaded."""
        if self._critiques is None:
            raise NotReady("The model is still being loaded; try again in a few seconds.")
        return self._critiques

    def healthy(self) -> bool:
        """Whether the engine's thread runs and makes progress, or is not needed yet."""
        return self._engine is None or self._engine.healthy()

    async def stop(self) -> None:
        """Gives everything back."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        if self._engine is not None:
            await self._engine.close()
        if self._critiques is not None:
            self._critiques.close()


def _proof(engine: Engine) -> Prompt:
    """Returns the prompt of the first critique: a grey square."""
    return engine.prepare(
        lambda: Image.new("RGB", (256, 256), (128, 128, 128)),
        "grey",
        lambda tokens: prompts.prompt_text(image_tokens=tokens),
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
