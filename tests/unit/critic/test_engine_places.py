"""Places in the engine: who waits, who is refused, and who gives a place back."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.core.errors import EngineStopped, InvalidArgument, Overloaded, QueuedTooLong
from services.critic.engine import AdapterNotLoaded, Completed, Finish
from services.critic.model import VisionLanguageModel
from services.critic.sampling import SamplingParams
from services.critic.writer import EngineOptions
from tests.unit.critic import solo
from tests.unit.critic.running import events_of, last, running, until_idle, without_end


async def test_a_cancelled_critique_frees_its_slot(tiny: VisionLanguageModel) -> None:
    endless = EngineOptions(slots=2, max_tokens=4096, max_queue=4)
    model = without_end(tiny)
    async with running(model, endless) as engine:
        streams = [engine.submit(solo.prompt_of(model, 0, 0), SamplingParams(4000)) for _ in range(2)]
        for stream in streams:
            await anext(stream)
        streams[0].cancel()
        # With both slots taken the next one could not start before 4,000 tokens were written.
        done = await events_of(engine.submit(solo.prompt_of(model, 1, 0), SamplingParams(2)))
        assert isinstance(done[-1], Completed)
        streams[1].cancel()
        await until_idle(engine)
        assert engine.stats().cancelled == 2


async def test_a_reader_that_is_cancelled_stops_its_critique(tiny: VisionLanguageModel) -> None:
    model = without_end(tiny)
    async with running(model, EngineOptions(slots=1, max_tokens=4096)) as engine:
        begun = asyncio.Event()

        async def read() -> None:
            async for _ in engine.submit(solo.prompt_of(model, 0, 0), SamplingParams(4000)):
                begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_idle(engine)
        assert engine.stats().cancelled == 1


class Clock:
    """The engine's clock, which a test sets ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("services.critic.slots.time", clock)
    return clock


async def test_a_deadline_ends_a_critique_that_is_being_written(tiny: VisionLanguageModel, clock: Clock) -> None:
    model = without_end(tiny)
    async with running(model, EngineOptions(slots=1, max_tokens=4096)) as engine:
        prompt = solo.prompt_of(model, 0, 0)
        stream = engine.submit(prompt, SamplingParams(4000), deadline=clock.monotonic() + 500)
        await anext(stream)
        clock.ahead = 1000.0
        with pytest.raises(QueuedTooLong, match="writing, after"):
            await events_of(stream)
        await until_idle(engine)


async def test_a_deadline_ends_a_wait(tiny: VisionLanguageModel, clock: Clock) -> None:
    model = without_end(tiny)
    async with running(model, EngineOptions(slots=1, max_tokens=4096)) as engine:
        prompt = solo.prompt_of(model, 0, 0)
        first = engine.submit(prompt, SamplingParams(4000))
        await anext(first)
        waiting = engine.submit(prompt, SamplingParams(4), deadline=clock.monotonic() + 500)
        clock.ahead = 1000.0
        with pytest.raises(QueuedTooLong, match="waiting for a place"):
            await events_of(waiting)
        first.cancel()


async def test_one_more_than_the_queue_holds_is_refused_at_once(tiny: VisionLanguageModel) -> None:
    model = without_end(tiny)
    async with running(model, EngineOptions(slots=1, max_tokens=4096, max_queue=2)) as engine:
        prompt = solo.prompt_of(model, 0, 0)
        first = engine.submit(prompt, SamplingParams(4000))
        await anext(first)
        waiting = [engine.submit(prompt, SamplingParams(1)) for _ in range(2)]
        with pytest.raises(Overloaded, match="1 critiques and 2 wait") as refusal:
            engine.submit(prompt, SamplingParams(1))
        assert refusal.value.retry_after_s is not None
        assert refusal.value.retry_after_s > 0
        first.cancel()
        for stream in waiting:
            assert last(await events_of(stream)).finish is Finish.LENGTH


async def test_a_prompt_that_fills_a_slot_is_refused_and_one_that_nearly_does_is_cut(tiny: VisionLanguageModel) -> None:
    model = without_end(tiny)
    prompt = solo.prompt_of(model, 0, 0)
    length = len(prompt.token_ids)
    async with running(model, EngineOptions(slots=1, max_tokens=length)) as engine:
        with pytest.raises(InvalidArgument, match="shorter instruction"):
            engine.submit(prompt, SamplingParams(1))
    async with running(model, EngineOptions(slots=1, max_tokens=length + 3)) as engine:
        assert len(last(await events_of(engine.submit(prompt, SamplingParams(50)))).tokens) == 3


async def test_an_adapter_that_is_not_loaded_is_refused(tiny: VisionLanguageModel) -> None:
    async with running(tiny) as engine:
        with pytest.raises(AdapterNotLoaded):
            engine.submit(solo.prompt_of(tiny, 0, 0), SamplingParams(1), adapter="nobody")


async def test_closing_ends_what_is_being_written(tiny: VisionLanguageModel) -> None:
    model = without_end(tiny)
    async with running(model, EngineOptions(slots=1, max_tokens=4096)) as engine:
        stream = engine.submit(solo.prompt_of(model, 0, 0), SamplingParams(4000))
        await anext(stream)
    with pytest.raises(EngineStopped, match="shutting down"):
        await events_of(stream)


async def test_a_closed_event_loop_does_not_end_the_engine(tiny: VisionLanguageModel) -> None:
    model = without_end(tiny)
    async with running(model) as engine:

        def leave_behind() -> None:
            async def begin() -> None:
                await anext(engine.submit(solo.prompt_of(model, 0, 0), SamplingParams(400)))

            asyncio.run(begin())

        await asyncio.to_thread(leave_behind)
        await until_idle(engine)
        assert engine.healthy()
