"""From a photograph and words to the model's inputs, within the limits that are set."""

from __future__ import annotations

import contextlib
import logging

import pytest
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
