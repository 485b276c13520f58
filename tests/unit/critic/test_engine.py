"""The engine: every critique is the one that `generate` would write, whatever is written beside it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.critic import model as models
from services.critic.engine import Completed, Delta, Event, Finish, Generation, Started
from services.critic.model import VisionLanguageModel
from services.critic.sampling import SamplingParams
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
