"""The measurements for a GPU, in a small form on the CPU: all of their code runs, and their figures add up."""

from __future__ import annotations

import sys

import pytest
import torch

from tests.bench import gpu
from tests.fakes.open_clip_folder import TINY, VIT_B_32
from tests.unit.critic.test_graphs import Recorder

CPU = torch.device("cpu")


@pytest.mark.parametrize("recorded", [False, True])
def test_the_critic_is_measured(recorded: bool) -> None:
    torch.set_num_threads(1)
    model = gpu.random_qwen(gpu.SMALL, CPU, torch.float32)
    recorder = Recorder() if recorded else None
    figures = gpu.measure_critic(model, gpu.SMALL, recorder, rounds=1)
    assert 0 < figures.alone_first_s < figures.alone_s
    assert figures.critiques_per_s > 0
    assert figures.first_token_ms >= figures.prefill_ms > 0
    assert figures.step_ms > 0
    assert figures.adapters > 0
    assert recorder is None or recorder.replays > gpu.SMALL.tokens


def test_the_4b_has_its_shape() -> None:
    model = gpu.random_qwen(gpu.QWEN3_VL_4B, torch.device("meta"), torch.bfloat16)
    size = sum(parameter.numel() for parameter in model.network.parameters())
    assert 4.3e9 < size < 4.6e9
    assert model.dtype is torch.bfloat16


def test_the_embedder_is_measured() -> None:
    torch.set_num_threads(1)
    figures = gpu.measure_embedder(TINY, CPU, torch.float32, (1, 4), 64, rounds=1)
    assert figures.keys() == {
        "matrix_product_tflops", "batch_1_per_s", "batch_1_share", "batch_4_per_s", "batch_4_share",
    }  # fmt: skip
    assert min(figures.values()) > 0


def test_the_tower_of_a_vit_b_32_takes_what_is_published() -> None:
    assert 4.3e9 < gpu.tower_flops(VIT_B_32["vision_cfg"]) / 2 < 4.5e9  # 4.4 billion multiplications and additions


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 2
    assert capsys.readouterr().err == "There is no GPU that torch can use here, so nothing was measured.\n"
