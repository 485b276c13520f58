"""The language model's weights, taken over from the network: fused, and packed where that is faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional

from services.critic import language
from services.critic import model as models
from services.critic.lora import GROUPS
from services.critic.model import VisionLanguageModel
from services.critic.sampling import SamplingParams
from tests.unit.critic import solo
from tests.unit.critic.running import events_of, last, running

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def fresh(tiny_folder: Path) -> Callable[[torch.dtype], VisionLanguageModel]:
    """Returns the tiny model, loaded anew."""
    return lambda dtype: models.load(tiny_folder, device=CPU, dtype=dtype, max_image_tokens=32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linears_multiply_as_the_networks_own_did(
    fresh: Callable[[torch.dtype], VisionLanguageModel], dtype: torch.dtype
) -> None:
    model = fresh(dtype)
    first = model.network.model.language_model.layers[0]
    own = {
        group: torch.cat([first.get_submodule(name).weight.clone() for name in names])
        for group, names in GROUPS.items()
    }
    linears = model.language.layers[0].linears
    assert all(linear.packed == language.packs(CPU, dtype) for linear in linears.values())
    torch.manual_seed(0)
    for group, weight in own.items():
        for tokens in (1, 8, 150):
            x = torch.randn(tokens, 1, weight.shape[1], dtype=dtype)
            product = functional.linear(x, weight)
            torch.testing.assert_close(linears[group](x), product)
            sums = torch.randn_like(product)
            expected = sums.float() + product.float()
            linears[group].add(sums, x)
            torch.testing.assert_close(sums, expected.to(dtype), rtol=2e-2, atol=2e-2)


def test_float32_lies_by_inputs_and_its_network_goes_on_writing(
    fresh: Callable[[torch.dtype], VisionLanguageModel],
) -> None:
    model = fresh(torch.float32)
    assert not language.packs(CPU, torch.float32)
    prompt = solo.prompt_of(model, 0, 1)
    before = solo.generate(model, prompt, 6)
    layer = model.network.model.language_model.layers[0]
    fused = model.language.layers[0].linears["qkv"].weight
    assert layer.self_attn.q_proj.weight.data_ptr() == fused.data_ptr()
    assert all(linear.weight.t().is_contiguous() for linear in model.language.layers[0].linears.values())
    assert solo.generate(model, prompt, 6) == before


async def test_one_model_serves_one_engine_after_another_in_bfloat16(
    fresh: Callable[[torch.dtype], VisionLanguageModel],
) -> None:
    model = fresh(torch.bfloat16)
    weights = sum(p.numel() for p in model.network.parameters())
    prompt = solo.prompt_of(model, 0, 1)
    written = []
    for _ in range(2):
        async with running(model) as engine:
            written.append(last(await events_of(engine.submit(prompt, SamplingParams(8)))).tokens)
    assert written[0] == written[1]
    if language.packs(CPU, torch.bfloat16):  # the weights are held once: the network's own are gone
        assert sum(p.numel() for p in model.network.parameters()) < weights
