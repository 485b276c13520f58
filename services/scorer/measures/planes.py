"""The normalised planes that every measure reads.

A picture is resampled (Lanczos) so that its long side is 512 pixels and its short side the nearest
multiple of 16, so a few dozen shapes cover all photographs and equal shapes are batched. From it:

- `luma`  [B, H, W], 0-255: gamma-coded luma at 512, with the weights of JPEG (ITU-R BT.601), so that what compression
  does to colour stays out of it. Only focus and noise read it: whatever reads this plane changes with resolution
  and compression.
- `lab`   [B, 3, H/2, W/2]: CIELAB (D65, 2 degrees) at 256, from the mean of 2x2 pixels in linear light.
- `small` [B, 3, H/8, W/8]: the mean of 4x4 pixels of `lab`, at 64.

L* is 0-100; a* and b* about -110..110. Source of the conversion: IEC 61966-2-1 (sRGB) and CIE 15:2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from services.scorer.measures import filters

LONG_SIDE = 512
GRID = 16

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the luma of ITU-R BT.601, which JPEG codes."""

_WHITE = (0.95047, 1.0, 1.08883)
_TO_XYZ = torch.tensor(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
) / torch.tensor(_WHITE).unsqueeze(1)
_codes = torch.arange(256, dtype=torch.float64) / 255
_LINEAR = torch.where(_codes <= 0.04045, _codes / 12.92, ((_codes + 0.055) / 1.055) ** 2.4).float()


def normalised_size(width: int, height: int) -> tuple[int, int]:
    """Returns the (width, height) at which a picture of this size is measured.

    The long side is 512, the short side a multiple of 16 and at least 16; so a strip thinner than 1:32
    is widened, and its confidence is lowered by `resolution`.
    """
    long, short = max(width, height), min(width, height)
    snapped = min(LONG_SIDE, max(GRID, round(short * LONG_SIDE / long / GRID) * GRID))
    return (LONG_SIDE, snapped) if width >= height else (snapped, LONG_SIDE)


def normalise(image: Image.Image) -> NDArray[np.uint8]:
    """Returns an upright sRGB picture as uint8 [H, W, 3] at its normalised size.

    Large reductions are first box-averaged to three times the size that is wanted, which is several
    times faster and does not show in any score.
    """
    size = normalised_size(*image.size)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(image)


class Planes:
    """The planes of a batch of pictures of one shape, computed once and shared by all measures."""

    def __init__(self, pixels: Tensor) -> None:
        """Takes uint8 pixels [B, H, W, 3] in sRGB, H and W multiples of 16.

        Raises:
            ValueError: the tensor is not uint8, not [B, H, W, 3], or not of a normalised size.
        """
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise ValueError(f"pixels must be uint8 [B, H, W, 3], not {pixels.dtype} {tuple(pixels.shape)}")
        if pixels.shape[1] % GRID or pixels.shape[2] % GRID or 0 in pixels.shape:
            raise ValueError(f"height and width must be multiples of {GRID}, not {tuple(pixels.shape[1:3])}")
        self.pixels = pixels
        device = pixels.device
        # Colours stay innermost until the planes are small: the large ones are read in the order of memory.
        self.luma = pixels.to(torch.float32) @ torch.tensor(LUMA, device=device)
        batch, rows, columns, _ = pixels.shape
        linear = _LINEAR.to(device).index_select(0, pixels.reshape(-1).int())
        linear = linear.reshape(batch, rows // 2, 2, columns // 2, 2, 3)
        upper, lower = linear[:, :, 0], linear[:, :, 1]
        quarter = 0.25 * (upper[:, :, :, 0] + upper[:, :, :, 1] + lower[:, :, :, 0] + lower[:, :, :, 1])
        self.linear = quarter.permute(0, 3, 1, 2).contiguous()
        self.lab = lab_from_linear(self.linear)
        self.small = filters.block_mean(self.lab, 4)

    @classmethod
    def of(cls, pictures: Sequence[NDArray[np.uint8]], device: torch.device | str = "cpu") -> Planes:
        """Returns the planes of normalised pictures that all have the same shape."""
        return cls(torch.from_numpy(np.stack(pictures)).to(device))

    @property
    def batch(self) -> int:
        """The number of pictures."""
        return self.pixels.shape[0]

    @cached_property
    def _stretched(self) -> tuple[Tensor, Tensor]:
        return stretched(self.small)

    @property
    def gain(self) -> Tensor:
        """[B], 0.9-6: what stretches the 1st to 99th percentile of L* at 64 px over 90 L*."""
        return self._stretched[1]

    @property
    def levelled(self) -> Tensor:
        """`small` as if developed to the full range: [B, 3, H/8, W/8], L* from about 5 to 95, a* and b* by `gain`.

        What reads this plane judges the picture apart from its exposure and contrast, which are lighting's.
        """
        return self._stretched[0]

    @cached_property
    def chroma(self) -> Tensor:
        """C* [B, H/2, W/2] at 256: the distance from grey in the a*b* plane, about 0-130."""
        return torch.hypot(self.lab[:, 1], self.lab[:, 2])

    @cached_property
    def lightness_gradient(self) -> Tensor:
        """Magnitude [B, H/2, W/2] of the change of L*, in L* a pixel at 256."""
        return torch.hypot(*filters.gradient(self.lab[:, 0]))

    @cached_property
    def lightness_shares(self) -> Tensor:
        """Histogram of L* at 256: [B, 200] in steps of half a unit."""
        return filters.histogram(self.lab[:, 0], 0.0, 100.0, 200)


def stretched(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Returns Lab [B, 3, H, W] with the 1st to 99th percentile of L* from 5 to 95 and a* and b* by the same gain, and
    the gain [B], 0.9-6.

    A range below 15 L* is stretched no further: an empty wall has no drama.
    """
    shares = filters.histogram(lab[:, 0], 0.0, 100.0, 200)
    low, high = filters.quantiles(shares, 0.0, 100.0, (0.01, 0.99))
    gain = 90 / (high - low).clamp_min(15)
    wide = gain.view(-1, 1, 1)
    lightness = (lab[:, 0] - low.view(-1, 1, 1)) * wide + 5
    return torch.stack([lightness, lab[:, 1] * wide, lab[:, 2] * wide], 1), gain


def lab_from_linear(linear: Tensor) -> Tensor:
    """Returns CIELAB [B, 3, H, W] of linear sRGB [B, 3, H, W] (0-1), relative to D65."""
    matrix = _TO_XYZ.to(linear.device)
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear)
    f = torch.where(xyz > 216 / 24389, xyz.clamp_min(1e-6).pow(1 / 3), xyz * (841 / 108) + 4 / 29)
    lightness = 116 * f[:, 1] - 16
    return torch.stack([lightness, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], dim=1)


def grid(rows: int, columns: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Returns the positions of pixel centres as (x [1, columns], y [rows, 1]), each 0-1 across the frame."""
    x = (torch.arange(columns, device=device, dtype=torch.float32) + 0.5) / columns
    y = (torch.arange(rows, device=device, dtype=torch.float32) + 0.5) / rows
    return x.unsqueeze(0), y.unsqueeze(1)
