"""Steps of fixed shapes, recorded and run again, write the same critiques; only CUDA's own recorder needs a GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from services.core.errors import ConfigurationError
from services.critic import adapter_format
from services.critic.adapter_format import AdapterLimits
from services.critic.loading import load_model
from services.critic.lora import TARGETS
from services.critic.model import VisionLanguageModel
from services.critic.sampling import SamplingParams
from services.critic.settings import CriticSettings
from services.critic.slots import SlotEngine
from services.critic.writer import EngineOptions
from tests.fakes.critic import random_adapter
from tests.unit.critic import solo
from tests.unit.critic.running import events_of, last

OPTIONS = EngineOptions(slots=6, max_tokens=600, max_queue=64)


class Recorder:
    """Obeys the rules of a CUDA graph on a CPU: fixed inputs, one result tensor that every run writes over."""

    def __init__(self) -> None:
        self.shapes: list[torch.Size] = []
        self.replays = 0

    def __call__(self, run: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
        result = run().clone()
        self.shapes.append(result.shape)

        def replay() -> None:
            self.replays += 1
            result.copy_(run())

        return replay, result


async def written(
    model: VisionLanguageModel, engine: SlotEngine, plan: list[tuple[int, int, str | None]]
) -> list[tuple[int, ...]]:
    streams = [
        engine.submit(solo.prompt_of(model, picture, 1), SamplingParams(tokens), adapter=adapter)
        for picture, tokens, adapter in plan
    ]
    return [last(events).tokens for events in await asyncio.gather(*map(events_of, streams))]


async def test_recorded_steps_write_what_steps_write(
    tiny: VisionLanguageModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = adapter_format.base_of(tiny.network, name=tiny.name, fingerprint=tiny.fingerprint)
    weights = [
        adapter_format.read(
            random_adapter(tmp_path / f"a{rank}", base, seed=rank, rank=rank, target_modules=sorted(TARGETS)),
            base,
            AdapterLimits(),
        ).weights
        for rank in (2, 4, 8)
    ]
    plan = [(n % 4, 3 + n % 11, None if n % 4 == 3 else str(n % 4)) for n in range(17)]
    recorder = Recorder()
    found = []
    for engine in (SlotEngine(tiny, OPTIONS), SlotEngine(tiny, OPTIONS, record=recorder)):
        engine.start()
        rounds = []
        await engine.load_adapter("0", weights[0])
        rounds.append(await written(tiny, engine, [(0, 9, None), (1, 9, "0")]))
        # Each of the next two moves all matrices to another place, which graphs recorded before must not read.
        await engine.load_adapter("1", weights[1])
        await engine.load_adapter("2", weights[2])
        rounds += [await written(tiny, engine, plan), await written(tiny, engine, [(2, 9, None)])]
        await engine.close()
        found.append(rounds)
    assert found[0] == found[1]
    assert "cannot be recorded" not in caplog.text
    # A few shapes serve all numbers of rows and all lengths.
    assert {shape[0] for shape in recorder.shapes} <= {1, 2, 4, 6}
    assert len(recorder.shapes) < recorder.replays / 2


async def test_a_step_that_cannot_be_recorded_runs_without(
    tiny: VisionLanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def refuse(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
        calls.append(run)
        raise RuntimeError("operation not permitted when stream is capturing")

    engine = SlotEngine(tiny, OPTIONS, record=refuse)
    engine.start()
    assert list((await written(tiny, engine, [(0, 8, None)]))[0]) == solo.generate(tiny, solo.prompt_of(tiny, 0, 1), 8)
    await engine.close()
    assert len(calls) == 1
    assert "cannot be recorded" in caplog.text


def test_graphs_on_a_cpu_are_refused_in_one_sentence(tiny_folder: Path) -> None:
    settings = CriticSettings(model_path=tiny_folder, device="cpu", cuda_graphs=True)
    with pytest.raises(ConfigurationError, match="CUDA_GRAPHS is on and the critic runs on the CPU"):
        load_model(settings)
