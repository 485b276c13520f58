"""An engine for the length of a test, and what a test reads from it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from services.critic.engine import Completed, Event, Generation
from services.critic.model import VisionLanguageModel
from services.critic.slots import SlotEngine
from services.critic.writer import EngineOptions

OPTIONS = EngineOptions(slots=4, max_tokens=512, max_queue=16, prefill_tokens=600)


@contextlib.asynccontextmanager
async def running(model: VisionLanguageModel, options: EngineOptions = OPTIONS) -> AsyncIterator[SlotEngine]:
    engine = SlotEngine(model, options)
    engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def events_of(generation: Generation) -> list[Event]:
    return [event async for event in generation]


def last(events: list[Event]) -> Completed:
    completed = events[-1]
    assert isinstance(completed, Completed)
    return completed


async def until_idle(engine: SlotEngine) -> None:
    """Waits, turn by turn, until no row is left."""
    while (stats := engine.stats()).rows or stats.waiting:
        await engine.turn()


def without_end(tiny: VisionLanguageModel) -> VisionLanguageModel:
    """Returns the same model, of which no token ends a text."""
    model = VisionLanguageModel.__new__(VisionLanguageModel)
    model.__dict__.update(tiny.__dict__, end_ids=frozenset({-1}))
    return model
