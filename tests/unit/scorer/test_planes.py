"""Normalised sizes and colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from services.scorer.measures.planes import Planes, normalise, normalised_size


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((4000, 3000), (512, 384)),
        ((3000, 4000), (384, 512)),
        ((1500, 1000), (512, 336)),
        ((1, 1), (512, 512)),
        ((8000, 20), (512, 16)),
        ((20, 8000), (16, 512)),
    ],
)
def test_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert normalised_size(*size) == expected


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_every_size_is_a_multiple_of_sixteen_with_a_long_side_of_512(width: int, height: int) -> None:
    columns, rows = normalised_size(width, height)
    assert max(columns, rows) == 512
    assert columns % 16 == 0
    assert rows % 16 == 0
    assert (columns >= rows) == (width >= height) or columns == rows


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        # Values of CIE 15 for D65 and the 2 degree observer, as colour tables list them.
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0.0, 0.0)),
    ],
)
def test_lab(rgb: tuple[int, int, int], lab: tuple[float, float, float]) -> None:
    planes = Planes.of([np.full((16, 32, 3), rgb, np.uint8)])
    assert planes.lab.shape == (1, 3, 8, 16)
    assert planes.small.shape == (1, 3, 2, 4)
    torch.testing.assert_close(planes.small[0, :, 0, 0], torch.tensor(lab), atol=0.05, rtol=0)


def test_light_is_averaged_before_coding() -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[::2] = 255
    # Half of the light is L* 76, not the 50 that the mean of the codes would give.
    assert Planes.of([pixels]).lab[0, 0].mean().item() == pytest.approx(76.07, abs=0.05)


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(1, 16, 16, 3),
        torch.zeros(1, 16, 20, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
        torch.zeros(16, 16, 3, dtype=torch.uint8),
        torch.zeros(0, 16, 16, 3, dtype=torch.uint8),
    ],
)
def test_other_tensors_are_refused(pixels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="must be"):
        Planes(pixels)


def test_levelled_spans_the_range_whatever_the_exposure() -> None:
    ramp = np.tile(np.linspace(40, 150, 512).astype(np.uint8), (256, 1))
    planes = Planes.of([np.repeat(ramp[..., None], 3, -1)])
    low, high = planes.levelled[0, 0].min().item(), planes.levelled[0, 0].max().item()
    assert (low, high) == pytest.approx((5, 95), abs=3)


def test_a_grey_file_is_taken_as_it_is() -> None:
    assert normalise(Image.new("RGB", (600, 400), (77, 77, 77))).shape == (336, 512, 3)
