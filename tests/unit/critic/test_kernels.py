"""The compiled kernels: equal to torch's own operations, whatever the rows' lengths, and cut for threads as told."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st

from services.critic import attention, kernels
from services.critic.attention import Attention
from services.critic.kv import KvPool
from services.critic.model import VisionLanguageModel

CPU = torch.device("cpu")


def attended(
    qkv: torch.Tensor, norm: torch.Tensor, both: torch.Tensor, lengths: list[int], positions: list[int], cuts: list[int]
) -> torch.Tensor:
    """Returns what the kernel makes of it [rows, heads, head_dim], part by part as `cuts` says."""
    kv_heads, size = both.shape[1] // 2, both.shape[3]
    angles = np.arange(40, dtype=np.float32)[:, None] / (1 + np.arange(size // 2, dtype=np.float32))
    out = torch.full((len(qkv), qkv.shape[1] - 2 * kv_heads, size), torch.nan, dtype=qkv.dtype)
    for start, stop in itertools.pairwise(cuts):
        kernels.attention(qkv.dtype)(
            kernels.array(qkv), kernels.array(norm), np.cos(angles), np.sin(angles), np.float32(1e-6),
            kernels.array(both), np.array(positions), np.array(lengths), start, stop, kernels.array(out),
        )  # fmt: skip
    return out


def by_torch(
    qkv: torch.Tensor, norm: torch.Tensor, both: torch.Tensor, lengths: list[int], positions: list[int]
) -> torch.Tensor:
    """Returns the same by torch's operations, row by row; `both` holds the new keys and values already."""
    heads = qkv.shape[1] - both.shape[1]
    rows = []
    for row, (length, position) in enumerate(zip(lengths, positions, strict=True)):
        q = turned(qkv[row, :heads].float(), norm[:heads].float(), position)
        keys, values = both[None, row, :, : length + 1].float().chunk(2, 1)
        rows.append(functional.scaled_dot_product_attention(q[None, :, None], keys, values, enable_gqa=True))
    return torch.cat(rows)[:, :, 0]


def turned(x: torch.Tensor, norm: torch.Tensor, position: int) -> torch.Tensor:
    size = x.shape[-1]
    angle = position / (1 + torch.arange(size // 2, dtype=torch.float32)).repeat(2)
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * norm
    first, second = normed.chunk(2, -1)
    return normed * angle.cos() + torch.cat((-second, first), -1) * angle.sin()


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 2, 48), (3, 1, 6), (8, 8, 64)])
def test_attention_is_that_of_torch_for_rows_of_any_length(
    dtype: torch.dtype, close: float, heads: int, kv_heads: int, size: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths, positions = [0, 1, 2, 3, 4, 5, 31, 17], [0, 5, 39, 3, 4, 1, 30, 2]
    rows = len(lengths)
    qkv = torch.randn(rows, heads + 2 * kv_heads, size, generator=generator).to(dtype)
    norm = torch.randn(heads + kv_heads, size, generator=generator).to(dtype)
    both = torch.randn(rows, 2 * kv_heads, 40, size, generator=generator).to(dtype)
    for row, length in enumerate(lengths):
        both[row, :, length:] = torch.nan  # what lies there is never looked at
    out = attended(qkv, norm, both, lengths, positions, [0, 3, rows * kv_heads])
    for row, (length, position) in enumerate(zip(lengths, positions, strict=True)):
        key = turned(qkv[row, heads : heads + kv_heads].float(), norm[heads:].float(), position)
        torch.testing.assert_close(both[row, :kv_heads, length].float(), key, rtol=close, atol=close)
        assert torch.equal(both[row, kv_heads:, length], qkv[row, heads + kv_heads :])
    torch.testing.assert_close(out.float(), by_torch(qkv, norm, both, lengths, positions), rtol=0, atol=close)


@pytest.mark.parametrize("place", ["query", "key", "value"])
def test_what_is_not_a_number_is_not_hidden(place: str) -> None:
    qkv, both = torch.ones(2, 4, 4), torch.zeros(2, 2, 40, 4)
    qkv[1, {"query": 0, "key": 2, "value": 3}[place], 1] = torch.nan
    out = attended(qkv, torch.ones(3, 4), both, [3, 3], [3, 3], [0, 2])
    assert torch.isfinite(out[0]).all()
    assert not torch.isfinite(out[1, 0]).all()


def test_bfloat16_is_rounded_as_torch_rounds() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 2_000, dtype=np.uint32)
    numbers = np.concatenate(
        [bits.view(np.float32), np.array([0, -0.0, math.inf, -math.inf, 1, 1e-45, 3.4e38], np.float32)]
    )
    numbers = numbers[~np.isnan(numbers)]
    ours = np.array([kernels._narrowed(number) for number in numbers], dtype=np.uint16)
    assert np.array_equal(ours, kernels.array(torch.from_numpy(numbers).to(torch.bfloat16)))
    assert np.array_equal(
        [kernels._widened(short) for short in ours], torch.from_numpy(ours).view(torch.bfloat16).float().numpy()
    )
    assert np.isnan(kernels._widened(kernels._narrowed(np.float32(math.nan))))


@given(x=st.floats(-200, 0, width=32))
@settings(max_examples=300)
def test_the_exponential_is_right_to_the_last_places(x: float) -> None:
    # Below e^-87 a share of attention is as good as nothing.
    assert kernels._exp(np.float32(x)) == pytest.approx(math.exp(x), rel=1e-6, abs=2e-38)


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=12), threads=st.integers(1, 9))
@settings(max_examples=60)
def test_parts_for_threads_take_every_head_once(tiny: VisionLanguageModel, lengths: list[int], threads: int) -> None:
    config = tiny.network.config.text_config
    pool = KvPool(
        layers=config.num_hidden_layers, slots=12, kv_heads=config.num_key_value_heads, max_tokens=512,
        head_dim=config.head_dim, device=CPU, dtype=torch.float32,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_WORTH_A_THREAD", 1)
        patch.setattr(torch, "get_num_threads", lambda: threads)
        cuts = Attention(tiny.language, pool)._cuts(np.array(lengths))
    heads = len(lengths) * config.num_key_value_heads
    assert cuts == sorted(cuts)
    assert (cuts[0], cuts[-1]) == (0, heads)
    assert len(cuts) == 1 + threads
