"""The image operations against numpy and against values by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scorer.measures import filters


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_box_is_the_mean_of_the_window_with_repeated_borders(rows: int, columns: int, radius: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    padded = np.pad(x, radius, mode="edge")
    side = 2 * radius + 1
    expected = np.lib.stride_tricks.sliding_window_view(padded, (side, side)).mean(axis=(-2, -1))
    np.testing.assert_allclose(filters.box(torch.from_numpy(x), radius).numpy(), expected, atol=1e-4)


def test_binomial_keeps_the_mean_and_spreads_a_point() -> None:
    x = torch.zeros(5, 5)
    x[2, 2] = 16
    expected = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    torch.testing.assert_close(filters.binomial(x)[1:4, 1:4], expected)
    torch.testing.assert_close(filters.binomial(x).sum(), x.sum())


def test_gradient_of_a_plane_is_its_slope() -> None:
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    right, down = filters.gradient(3 * x - 2 * y)
    torch.testing.assert_close(right[:, 1:-1], torch.full((6, 6), 3.0))
    torch.testing.assert_close(down[1:-1], torch.full((4, 8), -2.0))


def test_block_mean_and_enlarge() -> None:
    x = torch.arange(16.0).reshape(4, 4)
    small = filters.block_mean(x, 2)
    torch.testing.assert_close(small, torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    torch.testing.assert_close(filters.block_mean(filters.enlarge(small, 2), 2), small)


def test_histogram_counts_each_picture_apart_and_keeps_what_lies_outside() -> None:
    x = torch.tensor([[0.1, 0.9, -5.0, 7.0], [0.6, 0.6, 0.6, 0.1]])
    torch.testing.assert_close(filters.histogram(x, 0, 1, 2), torch.tensor([[0.5, 0.5], [0.25, 0.75]]))
    weighted = filters.histogram(x, 0, 1, 2, torch.tensor([[3.0, 1, 0, 0], [0.0, 0, 0, 0]]))
    torch.testing.assert_close(weighted, torch.tensor([[0.75, 0.25], [0.0, 0.0]]))


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_quantiles_are_those_of_numpy_within_a_bin(seed: int) -> None:
    x = np.random.default_rng(seed).uniform(0, 100, 4000).astype(np.float32)
    shares = filters.histogram(torch.from_numpy(x).unsqueeze(0), 0, 100, 200)
    levels = (0.01, 0.25, 0.5, 0.99)
    for found, level in zip(filters.quantiles(shares, 0, 100, levels), levels, strict=True):
        assert found.item() == pytest.approx(np.quantile(x, level), abs=0.6)


def test_entropy_is_one_for_equal_shares_and_zero_for_one_bin() -> None:
    shares = torch.stack([torch.full((8,), 1 / 8), torch.eye(8)[3]])
    torch.testing.assert_close(filters.entropy(shares), torch.tensor([1.0, 0.0]), atol=1e-4, rtol=0)


def test_weighted_mean_of_nothing_is_zero() -> None:
    x = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    weight = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    torch.testing.assert_close(filters.weighted_mean(x, weight), torch.tensor([2.5, 0.0]))
