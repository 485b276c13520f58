"""Faults in the engine: each costs the critiques that it strikes, and no other."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from services.core.errors import DeviceMemory, EngineStopped
from services.critic.engine import Completed
from services.critic.model import VisionLanguageModel
from services.critic.sampling import SamplingParams
from services.critic.writer import EngineOptions
from tests.unit.critic import solo
from tests.unit.critic.running import events_of, last, running, without_end


async def test_a_dead_thread_fails_everything_at_once_and_never_hangs(
    tiny: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = without_end(tiny)
    async with running(model, EngineOptions(slots=1, max_tokens=4096)) as engine:
        prompt = solo.prompt_of(model, 0, 0)
        fault = threading.Event()

        def broken(*_: object) -> None:
            fault.wait()
            raise RuntimeError("a fault of the device")

        monkeypatch.setattr(engine._writer.decoder, "decode", broken)
        streams = [engine.submit(prompt, SamplingParams(4000)) for _ in range(3)]
        await anext(streams[0])
        healthy = engine.healthy()
        fault.set()
        assert healthy
        for stream in streams:
            with pytest.raises(EngineStopped):
                await events_of(stream)
        assert not engine.healthy()
        with pytest.raises(EngineStopped):
            engine.submit(prompt, SamplingParams(1))
        with pytest.raises(EngineStopped):
            await engine.turn()


async def test_a_prompt_whose_reading_does_not_end_is_told_by_the_engines_health(
    tiny: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = 0.0
    monkeypatch.setattr("services.critic.slots.time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead))
    async with running(tiny) as engine:
        prefill = engine._writer.decoder.prefill
        reading, go_on = threading.Event(), threading.Event()

        def slow(*prompts: Any) -> torch.Tensor:
            reading.set()
            go_on.wait()
            return prefill(*prompts)

        monkeypatch.setattr(engine._writer.decoder, "prefill", slow)
        stream = engine.submit(solo.prompt_of(tiny, 0, 0), SamplingParams(2))
        await asyncio.to_thread(reading.wait)
        healthy = [engine.healthy()]
        ahead = 1000.0
        healthy.append(engine.healthy())
        stats = engine.stats()
        go_on.set()
        await events_of(stream)
        assert healthy == [True, False]
        assert (stats.rows, stats.waiting) == (0, 1)


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
        all_wait = threading.Event()

        def short(tokens: list[int], *rest: Any) -> torch.Tensor:
            all_wait.wait()
            if len(tokens) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return decode(tokens, *rest)

        monkeypatch.setattr(engine._writer.decoder, "decode", short)
        streams = [engine.submit(solo.prompt_of(model, 0, 0), SamplingParams(8)) for _ in range(4)]
        all_wait.set()
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


async def test_what_did_not_fit_holds_no_memory_while_it_is_tried_again_in_parts(
    tiny: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tiny, EngineOptions(slots=4, max_tokens=512)) as engine:
        prefill, give_back = engine._writer.decoder.prefill, engine._writer.give_memory_back
        attempts: list[weakref.ref[torch.Tensor]] = []
        held: list[bool] = []

        def look() -> None:
            held.extend(attempt() is not None for attempt in attempts)

        def short(prompts: list[Any], *rest: Any) -> torch.Tensor:
            look()
            activations = torch.zeros(1)
            attempts.append(weakref.ref(activations))
            if len(attempts) < 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return prefill(prompts, *rest)

        def given_back(error: BaseException) -> None:
            give_back(error)
            look()

        monkeypatch.setattr(engine._writer.decoder, "prefill", short)
        monkeypatch.setattr(engine._writer, "give_memory_back", given_back)
        streams = [engine.submit(solo.prompt_of(tiny, 0, 0), SamplingParams(2)) for _ in range(4)]
        await asyncio.gather(*map(events_of, streams), return_exceptions=True)
    assert held
    assert not any(held)


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
