"""White noise of a picture, estimated where the picture itself is flattest, and colour that no noise explains.

Input: gamma-coded luma and red minus green at 512 px, in units of 1/255, in blocks of 16 px. The variance n is
the larger of two estimates, each from the flattest eighth of the blocks that are not clipped, where noise would be cut
off:

- from luma: the energy above a blur by the 3x3 binomial kernel, unmixed from texture by the same on 2x2 means, since
  texture gains energy with scale and white noise does not. A film's grain shows here alone.
- from red minus green: the same energy as it is, less what follows luma, and at most all the energy of luma there. The
  texture of fur, grass or stone is of one colour, while the noise of a sensor is of each channel's own: so noise shows
  here that luma hides in texture, and colours that change while luma does not are no noise.

Broken colour is the opposite: red minus green that changes from pixel to pixel by more than twice what white noise of
the luma that is there would make of it. Neither sensors, lenses nor compression do that: they keep colour softer than
luma.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from services.scorer.measures import filters
from services.scorer.measures.planes import LUMA, Planes

_BLOCK = 16

_RESIDUAL_GAIN = 1 / (1 - 2 * 0.25 + 0.375**2)
"""White noise of variance one leaves 1 - 2 k(0) + sum k^2 after subtracting its blur by the 3x3 binomial kernel k."""

LUMA_VARIANCE = sum(share**2 for share in LUMA)
"""Variance of luma over that of one channel, of noise that is equal and independent in all three."""

_LUMA_SHARE = LUMA_VARIANCE / (2 - (LUMA[1] - LUMA[0]) ** 2 / LUMA_VARIANCE)
"""Variance of luma over that of red minus green, less what follows luma, of the same noise."""

_COMPRESSED = 0.05
"""Variance in red minus green, as luma, that compression leaves."""

_TEXTURE_GAIN = 2.5
"""Growth of the variance of texture from 512 to 256 px that is assumed: less than most texture of the fitting set has,
4 to 12, since texture that is taken for noise makes a picture sharper by blurring it."""


_BROKEN = 7.0
"""Energy of red minus green over that of luma that may be noise: twice the 4.5 of equal noise in all channels."""


@dataclass(frozen=True)
class Noise:
    """What varies from pixel to pixel in a batch of pictures."""

    variance: Tensor
    """[B]: variance of white noise of luma, in squared units of 1/255."""
    broken: Tensor
    """[B], 0-1: how far colour changes from pixel to pixel at constant luma, over the frame; 0 in photographs."""


def find_noise(planes: Planes) -> Noise:
    """Returns the noise of each picture."""
    luma, pixels = planes.luma, planes.pixels
    red, green, blue = pixels.permute(0, 3, 1, 2).contiguous().unbind(1)
    most, least = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    clipped = ((most >= 253) | (least <= 2)).float()
    # Blocks with more than a tenth of their pixels clipped come last.
    last = 1e6 * (filters.block_mean(clipped, _BLOCK).flatten(1) > 0.1)
    fine, color = _above(luma), _above(red.float() - green.float())
    blocks = _energy(fine * fine, _BLOCK)
    coarse = _energy(_above(filters.block_mean(luma, 2)).square(), _BLOCK // 2)
    where = _flattest(blocks + last)
    # Fine variance is noise + texture; coarse (four times that of 2x2 means) is noise + _TEXTURE_GAIN * texture.
    here, there = blocks.gather(1, where).mean(1), 4 * coarse.gather(1, where).mean(1)
    from_luma = ((_TEXTURE_GAIN * here - there) / (_TEXTURE_GAIN - 1)).clamp_min(0).minimum(here)
    colored = _energy(color * color, _BLOCK)
    own = colored - _energy(fine * color, _BLOCK).square() / blocks.clamp_min(1e-3)
    from_color = _LUMA_SHARE * own.gather(1, _flattest(own + last)).mean(1) - _COMPRESSED
    # Colours that vary by more than luma allows are not a sensor's: the more they do, the less they say of luma.
    from_color = from_color.clamp_min(0)
    from_color = from_color.minimum(here.square() / from_color.clamp_min(1e-6))
    broken = filters.saturate((colored - _BROKEN * blocks).clamp_min(0), 4.0).mean(1)
    return Noise(torch.maximum(from_luma, from_color), broken)


def _flattest(energy: Tensor) -> Tensor:
    """Positions [B, k] of the eighth of the blocks [B, blocks] with the least energy."""
    return energy.topk(max(1, energy.shape[1] // 8), dim=1, largest=False).indices


def _above(x: Tensor) -> Tensor:
    """What the 3x3 binomial kernel takes away."""
    return x - filters.binomial(x)


def _energy(product: Tensor, block: int) -> Tensor:
    """Means over blocks [B, blocks], scaled so that white noise gives its variance."""
    return filters.block_mean(product, block).flatten(1) * _RESIDUAL_GAIN
