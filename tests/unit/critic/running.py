"""An engine for the length of a test, and what a test reads from it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from services.critic.engine import Completed, EngineStats, Event, Generation
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
    seen: list[EngineStats] = []
    while not seen or seen[-1].rows or seen[-1].waiting:
        # Between two turns, when no row is on its way from one place to another, or gone and not yet counted.
        await engine._between_turns(lambda: seen.append(engine.stats()))


def without_end(tiny: VisionLanguageModel) -> VisionLanguageModel:
    """Returns the same model, of which no token ends a text."""
    model = VisionLanguageModel.__new__(VisionLanguageModel)
    model.__dict__.update(tiny.__dict__, end_ids=frozenset({-1}))
    return model
