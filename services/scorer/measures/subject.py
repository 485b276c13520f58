"""Where the subject is: a soft map of what does not belong to the frame's surroundings.

No centre prior: a subject is found wherever it stands. Three cues, each at 64 px:

- Barrier distance to each of the four sides (minimum barrier distance, Zhang et al. 2015, "Minimum
  Barrier Salient Object Detection at 80 FPS"): how much colour must change on the easiest way to a side.
  A cell counts as foreign by its second smallest of four distances: a subject that touches one side
  is still foreign to the other three.
- Distance from the border's colours (Mahalanobis, Lab), again second smallest over the sides.
- Centre-surround contrast in Lab at three scales (Itti, Koch and Niebur 1998).

Their product of sums is turned into soft figure and ground by one colour step: cells coloured as
the figure is coloured belong to it (histogram contrast, Cheng et al. 2011).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from services.scorer.measures import filters
from services.scorer.measures.planes import Planes, grid

_PASSES = 2
_FOOT = 0.05
_CHROMA = 0.5
"""Weight of a* and b* beside L*: a subject is set apart by tone before colour (as in the ratio of CIE94's weights)."""


@dataclass(frozen=True)
class Subject:
    """The soft subject of a batch of pictures, on the 64 px plane."""

    map: Tensor
    """[B, h, w], 0-1: how far a cell belongs to the subject."""
    share: Tensor
    """[B], 0-1: the share of the frame that the subject covers."""
    x: Tensor
    """[B], 0-1: horizontal centre of the subject, 0 at the left edge."""
    y: Tensor
    """[B], 0-1: vertical centre of the subject, 0 at the top edge."""
    concentration: Tensor
    """[B], 0-1: how far the picture has one subject at all; 0 for an edge-to-edge scene."""


def find_subject(planes: Planes) -> Subject:
    """Returns the soft subject of each picture."""
    small = planes.levelled * torch.tensor([1.0, _CHROMA, _CHROMA], device=planes.lab.device).view(3, 1, 1)
    barrier = filters.enlarge(_foreign_by_barrier(filters.block_mean(small, 2)), 2)
    border = _foreign_by_colour(small)
    contrast = _centre_surround(small)
    cue = _unit(filters.box(barrier, 1)) + _unit(border) + 0.5 * _unit(contrast)
    cue = filters.box(cue, 1)
    first = _sharpen(cue)
    figure = _colour_step(small, first)
    soft = _sharpen(filters.box(_unit(figure) + 0.7 * _unit(cue), 1))
    # The feet of the logistic step lie all over the frame, and would draw every centre to the middle.
    return _describe(((soft - _FOOT) / (1 - _FOOT)).clamp_min(0))


def _describe(soft: Tensor) -> Subject:
    rows, columns = soft.shape[-2:]
    x, y = grid(rows, columns, soft.device)
    centre_x = filters.weighted_mean(x.expand_as(soft), soft)
    centre_y = filters.weighted_mean(y.expand_as(soft), soft)
    aspect = columns / rows
    diagonal = (1 + 1 / aspect**2) ** 0.5
    dx = x - centre_x.view(-1, 1, 1)
    dy = (y - centre_y.view(-1, 1, 1)) / aspect
    # The root mean square distance from the centre, in diagonals of the frame.
    spread = filters.weighted_mean(dx**2 + dy**2, soft).clamp_min(0).sqrt() / diagonal
    share = soft.mean(dim=(-2, -1))
    # A uniform map has a spread of 0.289 diagonals; a compact figure of a tenth of the frame about 0.1.
    concentration = filters.ramp(0.27 - spread, 0.0, 0.15) * filters.ramp(0.6 - share, 0.0, 0.25)
    return Subject(soft, share, centre_x, centre_y, concentration)


def _unit(x: Tensor) -> Tensor:
    """Scales each map to a mean of one, so that cues of different units can be added."""
    return x / x.mean(dim=(-2, -1), keepdim=True).clamp_min(1e-3)


def _sharpen(cue: Tensor) -> Tensor:
    """Turns a cue of mean about one into a soft mask by a logistic step half-way up to its peak."""
    flat = cue.flatten(1)
    top = flat.topk(max(1, flat.shape[1] // 20), dim=1).values.mean(1).view(-1, 1, 1)
    low = flat.mean(1).view(-1, 1, 1)
    middle = 0.5 * (top + low)
    return torch.sigmoid((cue - middle) / (0.12 * (top - low) + 1e-3))


def _foreign_by_barrier(lab: Tensor) -> Tensor:
    """Second smallest over the sides of the minimum barrier distance, summed over L*, a*, b*: [B, h, w]."""
    batch, channels, rows, columns = lab.shape
    value = lab.unsqueeze(1).expand(batch, 4, channels, rows, columns).contiguous()
    distance = torch.full_like(value, 1e3)
    distance[:, 0, :, 0, :] = 0
    distance[:, 1, :, -1, :] = 0
    distance[:, 2, :, :, 0] = 0
    distance[:, 3, :, :, -1] = 0
    high, low = value.clone(), value.clone()
    for _ in range(_PASSES):
        for axis, length in ((-2, rows), (-1, columns)):
            _sweep(value, distance, high, low, axis, range(1, length), -1)
            _sweep(value, distance, high, low, axis, range(length - 2, -1, -1), 1)
    return distance.sum(2).sort(dim=1).values[:, 1]


def _sweep(value: Tensor, distance: Tensor, high: Tensor, low: Tensor, axis: int, order: range, step: int) -> None:
    """Carries barriers along one axis in place: from each line to the next, all columns at once."""
    for i in order:
        here = value.select(axis, i)
        top = torch.maximum(high.select(axis, i + step), here)
        bottom = torch.minimum(low.select(axis, i + step), here)
        reached = top - bottom
        mine = distance.select(axis, i)
        better = reached < mine
        torch.where(better, reached, mine, out=mine)
        old_high, old_low = high.select(axis, i), low.select(axis, i)
        torch.where(better, top, old_high, out=old_high)
        torch.where(better, bottom, old_low, out=old_low)


def _foreign_by_colour(lab: Tensor) -> Tensor:
    """Second smallest over the sides of the Mahalanobis distance to a side's colours: [B, h, w]."""
    rows, columns = lab.shape[-2:]
    deep = max(1, round(0.06 * rows)), max(1, round(0.06 * columns))
    sides = (lab[..., : deep[0], :], lab[..., -deep[0] :, :], lab[..., : deep[1]], lab[..., -deep[1] :])
    distances = []
    for side in sides:
        flat = side.flatten(2)
        mean = flat.mean(2)
        centred = flat - mean.unsqueeze(2)
        cov = centred @ centred.transpose(1, 2) / flat.shape[2]
        # 20 L*a*b* squared units on the diagonal: differences below 4.5 are never foreign, however even the side.
        cov = cov + 20 * torch.eye(3, device=lab.device)
        offset = lab.flatten(2) - mean.unsqueeze(2)
        solved = torch.linalg.solve(cov, offset)
        distances.append((offset * solved).sum(1).clamp_min(0).sqrt())
    second = torch.stack(distances, 1).sort(dim=1).values[:, 1]
    return second.reshape(lab.shape[0], rows, columns)


def _centre_surround(lab: Tensor) -> Tensor:
    rows, columns = lab.shape[-2:]
    total = torch.zeros_like(lab[:, 0])
    short = min(rows, columns)
    for inner, outer in ((1, short // 8), (2, short // 5), (3, short // 3)):
        near = filters.box(lab, min(inner, max(1, outer)))
        total = total + (near - filters.box(lab, max(2, outer))).square().sum(1).sqrt()
    return total


def _colour_step(lab: Tensor, soft: Tensor) -> Tensor:
    """Probability that a cell's colour is the figure's, from soft Lab histograms of 8 x 6 x 6 cells."""
    batch = lab.shape[0]
    bins_l = (lab[:, 0] * (8 / 100)).long().clamp(0, 7)
    bins_a = ((lab[:, 1] + 45) * (6 / 90)).long().clamp(0, 5)
    bins_b = ((lab[:, 2] + 45) * (6 / 90)).long().clamp(0, 5)
    index = ((bins_l * 6 + bins_a) * 6 + bins_b).flatten(1)
    weight = soft.flatten(1)
    figure = torch.zeros(batch, 288, device=lab.device).scatter_add_(1, index, weight)
    all_cells = torch.zeros(batch, 288, device=lab.device).scatter_add_(1, index, torch.ones_like(weight))
    prior = weight.mean(1, keepdim=True)
    belongs = (figure + 2 * prior) / (all_cells + 2)
    return belongs.gather(1, index).reshape(soft.shape)
