"""From a photograph and words to the model's inputs, within the limits that are set."""

from __future__ import annotations

import contextlib
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.core.errors import ConfigurationError, InvalidArgument, InvalidImage
from services.critic import memory, prompts
from services.critic.kv import KvPool
from services.critic.model import VisionLanguageModel
from services.critic.writer import EngineOptions
from tests.fakes.critic import photograph


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700))
def test_a_photograph_of_any_shape_stays_within_the_limit(tiny: VisionLanguageModel, width: int, height: int) -> None:
    # The cap of 32 tokens of 16 pixels is first reached by a strip 8 times as long as it is wide.
    if max(width, height) / min(width, height) > 8:
        with contextlib.suppress(InvalidImage):
            assert tiny.vision_inputs(photograph(width, height), "strip").tokens <= 32
        return
    inputs = tiny.vision_inputs(photograph(width, height), "any")
    frames, rows, columns = inputs.grid
    assert 1 <= inputs.tokens == frames * rows * columns // 4 <= 32
    assert inputs.pixels.shape[0] == frames * rows * columns


def test_a_photograph_keeps_its_shape(tiny: VisionLanguageModel) -> None:
    _, rows, columns = tiny.vision_inputs(photograph(600, 300), "wide").grid
    assert columns / rows == pytest.approx(2, rel=0.2)


def test_words_that_spell_an_image_token_are_refused(tiny: VisionLanguageModel) -> None:
    inputs = tiny.vision_inputs(photograph(), "one")
    with pytest.raises(InvalidArgument, match="control tokens"):
        tiny.prompt(inputs, lambda n: prompts.prompt_text(image_tokens=n) + prompts.IMAGE_TOKEN)
    with pytest.raises(InvalidArgument, match="control tokens"):
        tiny.prompt(inputs, lambda n: "no photograph at all")


def test_positions_of_image_tokens_are_rows_and_columns(tiny: VisionLanguageModel) -> None:
    inputs = tiny.vision_inputs(photograph(64, 48), "one")
    prompt = tiny.prompt(inputs, lambda n: prompts.prompt_text(image_tokens=n))
    start, span = prompt.image_start, prompt.image.tokens
    time, row, column = prompt.positions[:, start : start + span]
    assert time.unique().tolist() == [start]
    assert row.max() - start + 1 == inputs.grid[1] // 2
    assert column.max() - start + 1 == inputs.grid[2] // 2
    assert prompt.next_position == int(prompt.positions.max()) + 1 < len(prompt.token_ids)


def test_memory_is_computed_before_it_is_taken(
    tiny: VisionLanguageModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = EngineOptions(slots=3, max_tokens=100_000)
    with caplog.at_level(logging.INFO):
        options = memory.fit(tiny, asked, 1024**3)
    config = tiny.network.config.text_config
    assert options.max_tokens == config.max_position_embeddings < asked.max_tokens
    assert "3 slots of 4096 tokens" in caplog.text
    pool = KvPool(
        layers=config.num_hidden_layers, slots=3, kv_heads=config.num_key_value_heads, max_tokens=options.max_tokens,
        head_dim=config.head_dim, device=tiny.device, dtype=tiny.dtype,
    )  # fmt: skip
    monkeypatch.setattr(memory, "_free_bytes", lambda device: pool.nbytes)
    memory.fit(tiny, asked, 1024**3)
    monkeypatch.setattr(memory, "_free_bytes", lambda device: pool.nbytes - 1)
    with pytest.raises(ConfigurationError, match="lower MONDRIAN_CRITIC_MAX_BATCH"):
        memory.fit(tiny, asked, 1024**3)


def test_on_a_gpu_all_that_may_come_must_fit_into_the_process_share(
    tiny: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnGpu:
        network, dtype, device = tiny.network, tiny.dtype, torch.device("cuda:0")

    gib = 1024**3
    asked = EngineOptions(slots=1, max_tokens=64, vision_cache_bytes=gib)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 9 * gib)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 * gib)
    # The device has 20 + 1 GiB free; of a share of 15% of 80 GiB, 3 are left. Adapters count twice.
    for share, adapters, fits in ((0.9, 9, True), (0.9, 10, False), (0.15, 0, True), (0.15, 1, False)):
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device, share=share: share)
        if fits:
            memory.fit(OnGpu, asked, adapters * gib)  # type: ignore[arg-type]
        else:
            with pytest.raises(ConfigurationError, match=r"photographs up to 1\.00 GiB"):
                memory.fit(OnGpu, asked, adapters * gib)  # type: ignore[arg-type]
