"""Straight structure: how level the frame is, and whether its slanting lines meet.

Edges are read from L* at 256 px. Gradients below 1.2 L* a pixel are ignored: the 8-pixel grid of JPEG
makes faint lines that are perfectly level, and would pass for a straight horizon.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from services.scorer.measures import filters
from services.scorer.measures.planes import Planes, grid

EDGE = 1.2
"""Gradients below this many L* a pixel are not edges."""

_REACH = 15.0
_BINS = 61


@dataclass(frozen=True)
class Lines:
    """The straight structure of a batch of pictures."""

    tilt: Tensor
    """[B], degrees: lean of the strongest nearly level or upright lines; positive when the right side is low."""
    levelness: Tensor
    """[B], about -3..3: log ratio of edge mass within 1.25 degrees of the axes to mass 2.5-12 degrees off."""
    presence: Tensor
    """[B], 0-1: how far there are straight lines near the axes that a tilt can be told from."""
    axis_share: Tensor
    """[B], 0-1: the share of edge mass within 15 degrees of level or upright."""
    convergence: Tensor
    """[B], >= 0: how much more of the slanting edge mass points to one place than to an average place."""


def find_lines(planes: Planes) -> Lines:
    """Returns the straight structure of each picture."""
    # Central differences draw the direction of a hard edge towards the axes: two passes of blur take that away.
    right, down = filters.gradient(filters.binomial(filters.binomial(planes.lab[:, 0])))
    # Structure tensor over 5 x 5 px: straight, long edges are coherent, texture is not (Bigun 1987).
    xx, yy, xy = filters.box(right * right, 2), filters.box(down * down, 2), filters.box(right * down, 2)
    energy = xx + yy
    difference, cross = xx - yy, 2 * xy
    length = torch.hypot(difference, cross)
    coherence = length / (energy + EDGE**2)
    weight = (energy.sqrt() - EDGE).clamp_min(0).clamp_max(8) * coherence**3
    # Orientation of the normal, doubled angle halved: -90..90 degrees.
    angle = 0.5 * torch.rad2deg(torch.atan2(cross, difference))
    off_axis = angle - 90 * torch.round(angle / 90)
    near = weight * (off_axis.abs() < _REACH)
    shares = filters.histogram(off_axis, -_REACH, _REACH, _BINS, near)
    smooth = _smooth(shares)
    peak_mass, peak = smooth.max(1)
    centre = (torch.arange(_BINS, device=shares.device) + 0.5) * (2 * _REACH / _BINS) - _REACH
    # The mean of the bins around the peak: finer than a bin.
    around = shares * ((torch.arange(_BINS, device=shares.device) - peak.unsqueeze(1)).abs() <= 2)
    tilt = (around * centre).sum(1) / around.sum(1).clamp_min(1e-6)
    at_axis = shares[:, centre.abs() <= 1.25].sum(1)
    off = shares[:, (centre.abs() > 2.5) & (centre.abs() < 12)].sum(1)
    # Even shares would be 5/61 and 38/61; the constants keep the ratio finite where there are few edges.
    levelness = torch.log((at_axis + 0.02) / (5 / 61 + 0.02)) - torch.log((off + 0.1) / (38 / 61 + 0.1))
    mass = weight.mean(dim=(-2, -1))
    axis_mass = near.mean(dim=(-2, -1))
    presence = filters.ramp(peak_mass, 2.0 / _BINS, 6.0 / _BINS) * filters.ramp(axis_mass, 0.005, 0.05)
    axis_share = axis_mass / mass.clamp_min(1e-3)
    return Lines(tilt, levelness, presence, axis_share, _convergence(weight, angle, off_axis))


def _smooth(shares: Tensor) -> Tensor:
    """A moving mean over 1.5 degrees."""
    ends = torch.zeros_like(shares[:, :1])
    padded = torch.cat([ends, shares, ends], dim=1)
    return (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3


def _convergence(weight: Tensor, angle: Tensor, off_axis: Tensor) -> Tensor:
    """Votes of slanting edges for 9 x 7 places in and a little beyond the frame."""
    slanting = weight * filters.ramp(off_axis.abs(), 8.0, 14.0)
    rows, columns = slanting.shape[-2:]
    step = 4
    mass = filters.block_mean(slanting, step)
    # Direction of each block: the mean of doubled angles under the weights.
    double = torch.deg2rad(2 * angle)
    c, s = filters.block_mean(slanting * double.cos(), step), filters.block_mean(slanting * double.sin(), step)
    normal = 0.5 * torch.atan2(s, c)
    agreed = torch.hypot(c, s).flatten(1)
    x, y = grid(rows // step, columns // step, weight.device)
    long = max(rows, columns)
    x, y = x * columns / long, y * rows / long
    nx, ny = normal.cos().flatten(1), normal.sin().flatten(1)
    px, py = x.expand_as(mass[0]).flatten(), y.expand_as(mass[0]).flatten()
    offset = nx * px + ny * py
    vx = torch.linspace(-0.1, 1.1, 9, device=weight.device) * columns / long
    vy = torch.linspace(-0.1, 1.1, 7, device=weight.device) * rows / long
    gx, gy = torch.meshgrid(vx, vy, indexing="xy")
    gx, gy = gx.flatten(), gy.flatten()
    distance = nx.unsqueeze(1) * gx.view(1, -1, 1) + ny.unsqueeze(1) * gy.view(1, -1, 1) - offset.unsqueeze(1)
    # Lines near the place itself pass it by chance: they vote by how far away they start.
    away = torch.hypot(gx.unsqueeze(1) - px, gy.unsqueeze(1) - py)
    vote = ((distance.abs() < 0.035) * filters.ramp(away, 0.08, 0.25)) * agreed.unsqueeze(1)
    votes = vote.sum(2) / (agreed.sum(1, keepdim=True) + 0.02 * agreed.shape[1])
    return (votes.amax(1) - votes.mean(1)).clamp_min(0)
