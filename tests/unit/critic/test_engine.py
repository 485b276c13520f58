"""The engine: every critique is the one that `generate` would write, whatever is written beside it."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.core.errors import DeviceMemory, EngineStopped, InvalidArgument, Overloaded, QueuedTooLong
from services.critic import model as models
from services.critic.engine import AdapterNotLoaded, Completed, Delta, Event, Finish, Generation, Started
from services.critic.model import VisionLanguageModel
from services.critic.sampling import SamplingParams
from services.critic.writer import EngineOptions
from tests.fakes.critic import tiny_model_folder
from tests.unit.critic import solo
from tests.unit.critic.running import events_of, last, running, until_idle

LONGEST = 24


class Request(NamedTuple):
    picture: int
    instruction: int
    max_tokens: int
    # How many events of the request before this one are read before this one is sent.
    wait_for: int
    # How many events are read before it is cancelled; None: it is read to the end.
    cancel_after: int | None


requests = st.lists(
    st.builds(
        Request,
        picture=st.integers(0, len(solo.SHAPES) - 1),
        instruction=st.integers(0, len(solo.INSTRUCTIONS) - 1),
        max_tokens=st.integers(1, LONGEST),
        wait_for=st.integers(0, 6),
        cancel_after=st.none() | st.integers(0, 8),
    ),
    min_size=1,
    max_size=9,
)


@pytest.fixture(scope="module")
def expected(tiny: VisionLanguageModel) -> Callable[[int, int], list[int]]:
    @functools.cache
    def tokens(picture: int, instruction: int) -> list[int]:
        return solo.generate(tiny, solo.prompt_of(tiny, picture, instruction), LONGEST)

    return tokens


async def read_some(generation: Generation, events: list[Event], count: int) -> None:
    for _ in range(count):
        try:
            events.append(await anext(generation))
        except StopAsyncIteration:
            return


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(plan=requests)
def test_every_critique_is_the_one_it_would_be_alone(
    tiny: VisionLanguageModel, expected: Callable[[int, int], list[int]], plan: list[Request]
) -> None:
    async def run() -> None:
        async with running(tiny) as engine:
            sent: list[tuple[Request, Generation, list[Event]]] = []
            for request in plan:
                if sent:
                    await read_some(sent[-1][1], sent[-1][2], request.wait_for)
                prompt = solo.prompt_of(tiny, request.picture, request.instruction)
                sent.append((request, engine.submit(prompt, SamplingParams(request.max_tokens)), []))
            for request, generation, events in sent:
                if request.cancel_after is not None:
                    await read_some(generation, events, request.cancel_after - len(events))
                    generation.cancel()
            for request, generation, events in sent:
                if request.cancel_after is None:
                    events += await events_of(generation)
                    tokens = expected(request.picture, request.instruction)[: request.max_tokens]
                    assert list(last(events).tokens) == tokens
            await until_idle(engine)
            stats = engine.stats()
            assert stats.finished + stats.cancelled == len(plan)
            assert stats.failed == 0

    asyncio.run(run())


async def test_events_come_in_order_and_tell_the_whole_text(tiny: VisionLanguageModel) -> None:
    async with running(tiny) as engine:
        prompt = solo.prompt_of(tiny, 0, 1)
        events = await events_of(engine.submit(prompt, SamplingParams(LONGEST)))
    started, *deltas, completed = events
    assert isinstance(started, Started)
    assert isinstance(completed, Completed)
    text = "".join(delta.text for delta in deltas if isinstance(delta, Delta))
    written = completed.tokens[:-1] if completed.finish is Finish.STOP else completed.tokens
    assert len(written) > 3
    assert text == tiny.tokenizer.decode(written, skip_special_tokens=True)
    assert completed.prompt_tokens == len(prompt.token_ids)
    assert completed.image_tokens == prompt.image.tokens
    assert completed.first_token_s >= completed.prefill_s > 0


async def test_the_finish_reason_tells_an_end_from_a_limit(tiny: VisionLanguageModel) -> None:
    lengths = {}
    async with running(tiny) as engine:
        for picture in range(len(solo.SHAPES)):
            for instruction in range(len(solo.INSTRUCTIONS)):
                prompt = solo.prompt_of(tiny, picture, instruction)
                done = last(await events_of(engine.submit(prompt, SamplingParams(60))))
                lengths[picture, instruction] = len(done.tokens)
                assert (done.finish is Finish.STOP) == (done.tokens[-1] in tiny.end_ids)
                assert done.finish is Finish.STOP or len(done.tokens) == 60
                one = last(await events_of(engine.submit(prompt, SamplingParams(1))))
                assert one.tokens == done.tokens[:1]
    assert any(length < 60 for length in lengths.values()), "no critique ended by itself: the test shows nothing"


async def test_a_seeded_draw_does_not_depend_on_the_rows_beside_it(tiny: VisionLanguageModel) -> None:
    prompts = [solo.prompt_of(tiny, picture, 1) for picture in range(4)]
    params = SamplingParams(12, temperature=0.9, top_p=0.95, repetition_penalty=1.2, seed=5)
    async with running(tiny) as engine:
        alone = [last(await events_of(engine.submit(prompt, params))).tokens for prompt in prompts]
        streams = [engine.submit(prompt, params) for prompt in prompts]
        beside = [last(await events_of(stream)).tokens for stream in streams]
        other = last(await events_of(engine.submit(prompts[0], SamplingParams(12, temperature=0.9, seed=6)))).tokens
    assert alone == beside
    assert other != alone[0]


async def test_repetition_penalty_is_that_of_generate(tiny: VisionLanguageModel) -> None:
    prompt = solo.prompt_of(tiny, 1, 1)
    plain, penalised = solo.generate(tiny, prompt, 16), solo.generate(tiny, prompt, 16, repetition_penalty=1.5)
    assert plain != penalised
    async with running(tiny) as engine:
        done = last(await events_of(engine.submit(prompt, SamplingParams(16, repetition_penalty=1.5))))
    assert list(done.tokens) == penalised


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


def without_end(tiny: VisionLanguageModel) -> VisionLanguageModel:
    """The same model, of which no token ends a text."""
    model = VisionLanguageModel.__new__(VisionLanguageModel)
    model.__dict__.update(tiny.__dict__, end_ids=frozenset({-1}))
    return model


async def test_a_deadline_ends_a_critique_that_is_being_written(tiny: VisionLanguageModel) -> None:
    model = without_end(tiny)
    async with running(model, EngineOptions(slots=1, max_tokens=4096)) as engine:
        prompt = solo.prompt_of(model, 0, 0)
        stream = engine.submit(prompt, SamplingParams(4000), deadline=time.monotonic() + 0.2)
        with pytest.raises(QueuedTooLong, match="writing, after"):
            await events_of(stream)
        await until_idle(engine)


async def test_a_deadline_ends_a_wait(tiny: VisionLanguageModel) -> None:
    model = without_end(tiny)
    async with running(model, EngineOptions(slots=1, max_tokens=4096)) as engine:
        prompt = solo.prompt_of(model, 0, 0)
        first = engine.submit(prompt, SamplingParams(4000))
        await anext(first)
        with pytest.raises(QueuedTooLong, match="waiting for a place"):
            await events_of(engine.submit(prompt, SamplingParams(4), deadline=time.monotonic() + 0.05))
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


async def test_a_dead_thread_fails_everything_at_once_and_never_hangs(
    tiny: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = without_end(tiny)
    async with running(model, EngineOptions(slots=1, max_tokens=4096)) as engine:
        prompt = solo.prompt_of(model, 0, 0)
        streams = [engine.submit(prompt, SamplingParams(4000)) for _ in range(3)]
        await anext(streams[0])
        assert engine.healthy()

        def broken(*_: object) -> None:
            raise RuntimeError("a fault of the device")

        monkeypatch.setattr(engine._writer.decoder, "decode", broken)
        for stream in streams:
            with pytest.raises(EngineStopped):
                await events_of(stream)
        assert not engine.healthy()
        with pytest.raises(EngineStopped):
            engine.submit(prompt, SamplingParams(1))
        with pytest.raises(EngineStopped):
            await engine.turn()


async def test_closing_ends_what_is_being_written(tiny: VisionLanguageModel) -> None:
    model = without_end(tiny)
    async with running(model, EngineOptions(slots=1, max_tokens=4096)) as engine:
        stream = engine.submit(solo.prompt_of(model, 0, 0), SamplingParams(4000))
        await anext(stream)
    with pytest.raises(EngineStopped, match="shutting down"):
        await events_of(stream)


async def test_a_prompt_that_cannot_be_read_fails_alone(
    tiny: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = solo.prompt_of(tiny, 3, 1)
    async with running(tiny, EngineOptions(slots=4, max_tokens=512, vision_cache_bytes=0)) as engine:
        features = tiny.features

        def poisoned(images: Any) -> Any:
            if any(image.key == poison.image.key for image in images):
                raise RuntimeError("a photograph that the tower cannot take")
            return features(images)

        monkeypatch.setattr(tiny, "features", poisoned)
        good = [engine.submit(solo.prompt_of(tiny, picture, 1), SamplingParams(3)) for picture in (0, 1, 2)]
        bad = engine.submit(poison, SamplingParams(3))
        with pytest.raises(RuntimeError, match="cannot take"):
            await events_of(bad)
        for stream in good:
            assert isinstance((await events_of(stream))[-1], Completed)
        assert engine.healthy()


@pytest.mark.parametrize("fits", [2, 0])
async def test_memory_that_runs_out_sheds_the_latest_rows_and_is_survived(
    tiny: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    model = without_end(tiny)
    async with running(model) as engine:
        decode = engine._writer.decoder.decode

        def short(tokens: list[int], *rest: Any) -> torch.Tensor:
            if len(tokens) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return decode(tokens, *rest)

        monkeypatch.setattr(engine._writer.decoder, "decode", short)
        streams = [engine.submit(solo.prompt_of(model, 0, 0), SamplingParams(8)) for _ in range(4)]
        results = await asyncio.gather(*map(events_of, streams), return_exceptions=True)
        assert sum(isinstance(result, DeviceMemory) for result in results) == 4 - fits
        for result in results[:fits]:
            assert isinstance(result, list)
            assert list(last(result).tokens) == solo.generate(model, solo.prompt_of(model, 0, 0), 8)
        monkeypatch.undo()
        again = await events_of(engine.submit(solo.prompt_of(model, 0, 0), SamplingParams(2)))
        assert len(last(again).tokens) == 2


@pytest.mark.parametrize("fits", [2, 1, 0])
async def test_memory_that_runs_out_in_a_prompt_costs_only_those_that_do_not_fit(
    tiny: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    async with running(tiny, EngineOptions(slots=5, max_tokens=512)) as engine:
        prefill = engine._writer.decoder.prefill
        prompt = solo.prompt_of(tiny, 0, 0)
        seen: list[int] = []
        all_wait = threading.Event()

        def short(prompts: list[Any], *rest: Any) -> torch.Tensor:
            all_wait.wait()
            seen.append(len(prompts))
            if len(prompts) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return prefill(prompts, *rest)

        monkeypatch.setattr(engine._writer.decoder, "prefill", short)
        streams = [engine.submit(prompt, SamplingParams(8)) for _ in range(5)]
        all_wait.set()
        results = await asyncio.gather(*map(events_of, streams), return_exceptions=True)
        # Read in smaller groups, everything fits as soon as one prompt does.
        assert max(seen) > fits
        for result in results:
            if fits:
                assert isinstance(result, list)
                assert list(last(result).tokens) == solo.generate(tiny, prompt, 8)
            else:
                assert isinstance(result, DeviceMemory)
                assert result.retry_after_s is not None
                assert result.retry_after_s > 0
        monkeypatch.undo()
        again = await events_of(engine.submit(prompt, SamplingParams(8)))
        assert list(last(again).tokens) == solo.generate(tiny, prompt, 8)
        assert engine.stats().rows == 0


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


async def test_a_photograph_seen_before_does_not_meet_the_tower_again(
    tiny: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    features = tiny.features

    def counted(images: Any) -> Any:
        calls.append(len(images))
        return features(images)

    monkeypatch.setattr(tiny, "features", counted)
    async with running(tiny) as engine:
        first = last(await events_of(engine.submit(solo.prompt_of(tiny, 0, 0), SamplingParams(5))))
        again = last(await events_of(engine.submit(solo.prompt_of(tiny, 0, 0), SamplingParams(5))))
    assert calls == [1]
    assert first.tokens == again.tokens


async def test_a_model_whose_every_layer_takes_features_of_the_photograph(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "shallow", layers=2)
    model = models.load(folder, device=torch.device("cpu"), dtype=torch.float32, max_image_tokens=32)
    assert len(model.network.config.vision_config.deepstack_visual_indexes) == 2
    async with running(model) as engine:
        for picture in (0, 3):
            prompt = solo.prompt_of(model, picture, 1)
            done = last(await events_of(engine.submit(prompt, SamplingParams(6))))
            assert list(done.tokens) == solo.generate(model, prompt, 6)


async def test_a_row_that_is_not_finite_fails_alone_and_leaves_nothing_in_its_slot(
    tiny: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = without_end(tiny)
    prompt = solo.prompt_of(model, 0, 0)
    async with running(model) as engine:
        decoder, pool = engine._writer.decoder, engine._writer.pool
        decode = decoder.decode

        def poisoned(*numbers: Any) -> torch.Tensor:
            logits = decode(*numbers)
            logits[0] = torch.nan
            for layer in pool.both:
                layer[0] = torch.nan
            monkeypatch.undo()
            return logits

        monkeypatch.setattr(decoder, "decode", poisoned)
        streams = [engine.submit(prompt, SamplingParams(8)) for _ in range(4)]
        results = await asyncio.gather(*map(events_of, streams), return_exceptions=True)
        assert sum(isinstance(result, FloatingPointError) for result in results) == 1
        streams = [engine.submit(prompt, SamplingParams(8)) for _ in range(4)]
        written = [result for result in results if isinstance(result, list)]
        for events in [*written, *[await events_of(stream) for stream in streams]]:
            assert list(last(events).tokens) == solo.generate(model, prompt, 8)


async def test_a_prompt_that_is_not_finite_leaves_nothing_in_its_slot(
    tiny: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = solo.prompt_of(tiny, 0, 0)
    async with running(tiny, EngineOptions(slots=2, max_tokens=512)) as engine:
        decoder, pool = engine._writer.decoder, engine._writer.pool

        def poisoned(prompts: list[Any], *rest: Any) -> torch.Tensor:
            for layer in pool.both:
                layer[0] = torch.nan
            monkeypatch.undo()
            return torch.full((len(prompts), 8), torch.nan)

        monkeypatch.setattr(decoder, "prefill", poisoned)
        with pytest.raises(FloatingPointError):
            await events_of(engine.submit(prompt, SamplingParams(8)))
        # What lies beyond a row's end is hidden by a weight of 0, and 0 times NaN is NaN.
        assert all(torch.isfinite(layer).all() for layer in pool.both)
        after = await events_of(engine.submit(prompt, SamplingParams(8)))
        assert list(last(after).tokens) == solo.generate(tiny, prompt, 8)
