"""focus_sharpness: how sharp the sharpest plane of the picture is, and how noisy.

Input: gamma-coded luma at 512 px, in units of 1/255, in blocks of 16 px. A block's gradient energy E0 is
compared with E1, that of the same block re-blurred by a known kernel (Zhuo and Sim 2011,
"Defocus map estimation from a single image", in energies). For a step edge of Gaussian width s the
gradient energy is proportional to 1/s, so with the known width k of the re-blur

    q = E0 / E1 = sqrt(s^2 + k^2) / s     and     s = k / sqrt(q^2 - 1)   [px at 512]

Both are read from a base that is blurred once by the 3x3 binomial kernel, which takes away most of what JPEG changes.
Gradients are differences of neighbours in four directions (level, upright, two diagonals). White noise of variance n
adds a known multiple of n to the energy of each, before and after the re-blur; both are removed before the ratio,
or noise would look like sharpness (n: see `noise`).

The picture is as sharp as the sharpest tenth of its blocks, weighted by energy: shallow depth of field is not punished.
Motion blur widens edges in one direction only, so the widest of the four directions counts too.

    raw = -0.4 log2(s) - 0.6 log2(widest s) - 1.0 log2(1 + noise^2/4)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from services.scorer.measures import filters
from services.scorer.measures.scene import Measured, Scene

UNITS = {
    "edge_rise": "px at 512",
    "reblur_width": "px at 512",
    "reblur_width_across": "px at 512",
    "noise": "of 255",
    "share_in_focus": "share of the frame",
    "share_with_edges": "share of the frame",
    "anisotropy": "",
    "blur_angle": "degrees",
}

_BLOCK = 16
_REBLUR = 1.0
"""Standard deviation in px of the re-blur, two passes of the 3x3 binomial kernel."""


_HALF = 1000.0
"""Gradient energy at which a block counts a quarter: compression wears weak texture away, strong edges stay."""

_SURE = 2.0
"""Noise is removed from the sharp energy this many times over, so that an estimate that is too low leaves no
sharpness."""


def measure(scene: Scene) -> Measured:
    """Returns the sharpness of each picture."""
    luma, variance = scene.planes.luma, scene.noise.variance
    n = variance.view(-1, 1, 1)
    gains = _noise_gains()
    floor = 0.5 * gains[0][0] * (3.0 + n)
    base = filters.binomial(luma)
    again = filters.binomial(filters.binomial(base))
    before = [
        (filters.block_mean(d.square(), _BLOCK) - _SURE * gain[0] * n).clamp_min(0)
        for d, gain in zip(_differences(base), gains, strict=True)
    ]
    after = [
        filters.block_mean(d.square(), _BLOCK) - gain[1] * n for d, gain in zip(_differences(again), gains, strict=True)
    ]
    energy = before[0] + before[1] + before[2] + before[3]
    total_after = after[0] + after[1] + after[2] + after[3]
    width = _width(energy, total_after.clamp_min(0), 4 * floor)
    weight = (energy / (energy + _HALF)).square() * (energy > 4 * floor)
    sharpest = _low_quantile(width, weight)
    directed = [_directed(e0.clamp_min(0), e1.clamp_min(0), floor) for e0, e1 in zip(before, after, strict=True)]
    across = torch.stack(directed, 1)
    wider, _ = across.max(1)
    in_focus = ((width < 1.3 * sharpest.view(-1, 1, 1)) * (weight > 0.05)).float().mean(dim=(-2, -1))
    with_edges = (weight > 0.05).float().mean(dim=(-2, -1))
    raw = -0.4 * sharpest.log2() - 0.6 * wider.log2() - 1.0 * (1 + variance / 4).log2()
    # Doubled angles add up the four directions like vectors: their sum points along the blur.
    logs = across.log2()
    level_upright, diagonals = logs[:, 0] - logs[:, 1], logs[:, 2] - logs[:, 3]
    values = {
        "edge_rise": _edge_rise(luma),
        "reblur_width": sharpest,
        "reblur_width_across": wider,
        "noise": variance.sqrt(),
        "share_in_focus": in_focus,
        "share_with_edges": with_edges,
        "anisotropy": torch.hypot(level_upright, diagonals),
        "blur_angle": (0.5 * torch.rad2deg(torch.atan2(diagonals, level_upright))) % 180,
    }
    return Measured(raw, filters.ramp(with_edges, 0.0, 0.05), values)


def _edge_rise(luma: Tensor) -> Tensor:
    """Px [B] within which the sharpest edges rise: range over steepest step of a block, over the steepest tenth.

    For people to check at full magnification; the score does not read it. 16 where no block has an edge.
    """
    right, down = filters.gradient(luma)
    steepest = _block_most(torch.hypot(right, down))
    span = _block_most(luma) + _block_most(-luma)
    rise = (span / steepest.clamp_min(0.5)).clamp(1.0, 16.0)
    shares = filters.histogram(rise, 0.0, 16.0, 320, (span > 40).float() * span)
    (quantile,) = filters.quantiles(shares, 0.0, 16.0, (0.10,))
    return torch.where(span.flatten(1).amax(1) > 40, quantile, torch.full_like(quantile, 16.0))


def _block_most(x: Tensor) -> Tensor:
    rows, columns = x.shape[-2:]
    return x.reshape(-1, rows // _BLOCK, _BLOCK, columns // _BLOCK, _BLOCK).amax(dim=(2, 4))


def _differences(x: Tensor) -> list[Tensor]:
    """Differences of neighbours to the right, downward, down-right and down-left (diagonals per sqrt(2) px)."""
    p = torch.cat([x, x[..., -1:, :]], dim=-2)
    p = torch.cat([p[..., :1], p, p[..., -1:]], dim=-1)
    here, below = p[..., :-1, 1:-1], p[..., 1:, :]
    return [p[..., :-1, 2:] - here, below[..., 1:-1] - here, below[..., 2:] - here, below[..., :-2] - here]


@cache
def _noise_gains() -> tuple[tuple[float, float], ...]:
    """Energy of each neighbour difference of unit white noise, at the base blur and after the re-blur."""
    plane = torch.zeros(13, 13, dtype=torch.float64)
    plane[6, 6] = 1
    base = filters.binomial(plane)
    again = filters.binomial(filters.binomial(base))
    steps = ((0, 1), (1, 0), (1, 1), (1, -1))
    return tuple(
        (
            float((base - base.roll(step, (0, 1))).square().sum()),
            float((again - again.roll(step, (0, 1))).square().sum()),
        )
        for step in steps
    )


def _width(sharp: Tensor, blurred: Tensor, floor: Tensor) -> Tensor:
    """Edge width in px from the two energies; 8 px where a block has no energy above the floor."""
    q = (sharp + 0.02 * floor) / (blurred + 0.02 * floor)
    width = _REBLUR / (q.square() - 1).clamp_min(1 / 128).sqrt()
    return torch.where(sharp > 0.5 * floor, width.clamp(0.02, 8.0), torch.full_like(width, 8.0))


def _directed(sharp: Tensor, blurred: Tensor, floor: Tensor) -> Tensor:
    """The width [B] of the sharpest tenth of the blocks in one direction."""
    return _low_quantile(_width(sharp, blurred, floor), (sharp / (sharp + _HALF / 4)).square() * (sharp > floor))


def _low_quantile(width: Tensor, weight: Tensor) -> Tensor:
    """The width [B] that a tenth of the weighted blocks stay below: the sharpest plane."""
    shares = filters.histogram(width.log2(), -6.0, 3.0, 360, weight)
    (quantile,) = filters.quantiles(shares, -6.0, 3.0, (0.10,))
    empty = weight.flatten(1).sum(1) <= 0
    return torch.where(empty, torch.full_like(quantile, 3.0), quantile).exp2()


_CRISP, _SOFT = (1.75, 0.4), (2.15, 0.8)
"""Px at 512 of edge_rise and of reblur_width: below both a person calls edges crisp, beyond either soft."""

_SMEARED = 1.0
"""Width across, in px at 512, of what was moved: without it, differing widths are those of the things themselves."""


def evidence(values: Mapping[str, float]) -> list[str]:
    """Returns sentences on the sharpness, the most telling first."""
    if values["share_with_edges"] < 0.01:
        return ["There is hardly an edge in the frame to judge sharpness by."]
    found = [
        f"The sharpest edges are {_called(values)}: they rise within {values['edge_rise']:.1f} px, seen at 512 px."
    ]
    if _moved(values):
        found.append(f"The blur is mainly {_direction(values['blur_angle'])}: the camera or the subject moved.")
    if values["noise"] > 4:
        found.append(f"Noise of {values['noise']:.1f} of 255 levels covers fine detail.")
    return found


def _called(values: Mapping[str, float]) -> str:
    """One word where both widths agree: the rise, and the width that the score is made of."""
    rise, width = values["edge_rise"], values["reblur_width"]
    if rise > _SOFT[0] or width > _SOFT[1]:
        return "soft"
    return "crisp" if rise < _CRISP[0] and width < _CRISP[1] else "fairly sharp"


def _moved(values: Mapping[str, float]) -> bool:
    return values["anisotropy"] > 1.0 and values["reblur_width_across"] > _SMEARED


def _direction(angle: float) -> str:
    return ("horizontal", "diagonal", "vertical", "diagonal")[round(angle / 45) % 4]


def advice(values: Mapping[str, float]) -> str:
    """Returns what to try for a sharper picture."""
    if _moved(values):
        return "Use a shorter exposure or a tripod: the blur runs in one direction."
    if values["noise"] > 4:
        return "Use a lower ISO or average several frames: noise hides the detail."
    if _called(values) == "soft":
        return "Check the focus at full magnification, and hold the camera still: even the sharpest edges are soft."
    return "See at full magnification whether the subject is what is sharpest; stop down where more should be sharp."
