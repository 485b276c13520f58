"""A batch of pictures with everything that more than one measure reads, each found once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.scorer.measures import filters
from services.scorer.measures.lines import Lines, find_lines
from services.scorer.measures.noise import LUMA_VARIANCE, Noise, find_noise
from services.scorer.measures.planes import Planes
from services.scorer.measures.subject import Subject, find_subject

_CHROMA_NOISE = 0.55
"""Root mean square C* at 256 px of white noise of one level of 255 in each channel at 512 px: 0.5 on a middle grey, 0.6
on a dark one.
"""


@dataclass(frozen=True)
class Measured:
    """What one measure found in a batch of pictures."""

    raw: Tensor
    """[B], no unit: larger is better; only its order matters, calibration gives it a scale."""
    strength: Tensor
    """[B], 0-1: how much there was to measure, which scales the confidence."""
    values: dict[str, Tensor]
    """The named sub-measures, [B] each, in the units that the module states."""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """What `raw` is the weighted sum of, [B] each, larger is better; empty where it is no such sum."""


def weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Returns the sum [B] of terms [B] by their weights, which have the same names."""
    return torch.stack([term * weights[name] for name, term in terms.items()]).sum(0)


class Scene:
    """Planes, subject and lines of a batch of pictures of one shape."""

    def __init__(self, planes: Planes) -> None:
        self.planes = planes

    @classmethod
    def of(cls, pictures: Sequence[NDArray[np.uint8]], device: torch.device | str = "cpu") -> Scene:
        """Returns the scene of normalised pictures (uint8 [H, W, 3]) that all have the same shape."""
        return cls(Planes.of(pictures, device))

    @cached_property
    def subject(self) -> Subject:
        """Where the subject is."""
        return find_subject(self.planes)

    @cached_property
    def lines(self) -> Lines:
        """The straight structure."""
        return find_lines(self.planes)

    @cached_property
    def noise(self) -> Noise:
        """What varies from pixel to pixel."""
        return find_noise(self.planes)

    @cached_property
    def chroma_noise(self) -> Tensor:
        """[B]: root mean square C* that noise equal in all channels makes of grey, in `lab` at 256 px."""
        return _CHROMA_NOISE * (self.noise.variance / LUMA_VARIANCE).sqrt()

    @cached_property
    def color_weight(self) -> Tensor:
        """[B], 0-1: how far a picture is in colour; 0 for black and white, sepia and any single tint.

        The spread of the a*b* points away from one hue: root mean square of what lies across the mean hue
        direction or on its far side. Greys give 0, sepia below 1.5, muted colour photographs 3 and more: after
        levelling, so that a thin exposure does not turn a colour photograph into a monochrome one, and less the noise,
        which is no colour.
        """
        gain = self.planes.gain.clamp_max(3).unsqueeze(1)
        a, b = self.planes.lab[:, 1].flatten(1) * gain, self.planes.lab[:, 2].flatten(1) * gain
        ma, mb = a.mean(1, keepdim=True), b.mean(1, keepdim=True)
        norm = torch.hypot(ma, mb)
        # Without a mean tint (below 2) no direction is privileged: all chroma counts as spread.
        ua, ub = ma / norm.clamp_min(2.0), mb / norm.clamp_min(2.0)
        along = (a * ua + b * ub).clamp_min(0)
        noise = (self.chroma_noise * gain.squeeze(1)).square()
        spread = ((a * a + b * b - along * along).mean(1) - noise).clamp_min(0).sqrt()
        return filters.ramp(spread, 1.5, 3.0)

    @cached_property
    def plain_ground(self) -> Tensor:
        """[B]: the share of the frame's edge, 0-1, that is one plain white or one plain black: the ground of a cut-out,
        a studio or a stage rather than a scene's.
        """
        lightness, chroma = self.planes.lab[:, 0], self.planes.chroma
        white, black = (lightness >= 97) & (chroma < 5), lightness <= 3
        return torch.maximum(_ring_share(white), _ring_share(black))

    @property
    def doubt(self) -> Tensor:
        """[B], 0.4-1: the factor of the confidence of what is calibrated on scenes, for the sake of a plain ground."""
        return 1 - 0.6 * filters.ramp(self.plain_ground, 0.6, 0.9)

    @cached_property
    def detail(self) -> Tensor:
        """[B]: the share of the frame, 0-1, that shows any structure at all (L* varies by more than 1 nearby)."""
        lightness = self.planes.small[:, 0]
        return ((lightness - filters.box(lightness, 3)).abs() > 1).float().mean(dim=(-2, -1))


def _ring_share(mask: Tensor) -> Tensor:
    """Returns the share [B] of the outermost two pixels of a mask [B, H, W] that is true."""
    sides = (mask[:, :2], mask[:, -2:], mask[:, 2:-2, :2], mask[:, 2:-2, -2:])
    return torch.cat([side.flatten(1) for side in sides], 1).float().mean(1)
