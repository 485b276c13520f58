"""depth_perspective: how much depth the picture suggests.

Inputs: levelled Lab at 64 px, L* at 256 px, linear light at 256 px for the dark channel, and the lines.

- layering: log share of the variance of colour that lies between the rows: ground, distance and sky lie above each
  other, while things on a table do not.
- gravity: the share of edges within 15 degrees of level or upright; scenes stand upright, things lie as they are put.
- cooling: how much bluer the upper third is than the lower, as sky and distance are.
- ground: the share of the lower third that is calm; a ground with texture is one that can be seen to recede.
- detail gradient: log2 ratio of fine detail in the lower third to the upper third: texture is coarse nearby and gone
  afar (Gibson 1950, "The Perception of the Visual World").
- fineness: log ratio of gradients at 64 px to those at 32 px: a deep scene has structure down to the smallest scale
  (Torralba and Oliva 2002, "Depth estimation from image structure").
- haze: dark channel (He, Sun and Tang 2009: the least of the three colours in a patch, in linear light), upper third
  minus lower third.
- convergence of slanting lines to one place.

The weights are near those of a ridge that tells 49 scenes from 130 objects of the half of the fitting set that is for
development; haze and convergence were given more than the ridge did, since that set has few mountains and roads.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from services.scorer.measures import filters
from services.scorer.measures.scene import Measured, Scene, weighted

UNITS = {
    "layering": "share of the variance",
    "gravity": "share of the edges",
    "cooling": "Lab units after levelling",
    "calm_ground": "share of the lower third",
    "detail_gradient": "stops of detail",
    "fineness": "log ratio",
    "haze_gradient": "share of full light",
    "layers": "bands",
    "convergence": "",
}

WEIGHTS = {
    "layering": 0.35,
    "gravity": 1.3,
    "cooling": 0.45,
    "ground": 0.7,
    "detail": 0.25,
    "fineness": 0.6,
    "haze": 0.15,
    "convergence": 0.6,
}


def measure(scene: Scene) -> Measured:
    """Returns the depth of each picture."""
    planes, lines = scene.planes, scene.lines
    levelled = planes.levelled
    lightness = levelled[:, 0]
    third = max(1, lightness.shape[-2] // 3)
    rows_apart = levelled.mean(-1).var(dim=-1, unbiased=False).sum(1)
    total = levelled.var(dim=(-2, -1), unbiased=False).sum(1)
    layering = (rows_apart + 4) / (total + 4)
    cooling = levelled[:, 2, -third:].mean(dim=(-2, -1)) - levelled[:, 2, :third].mean(dim=(-2, -1))
    magnitude = torch.hypot(*filters.gradient(lightness))
    calm_ground = (magnitude[..., -third:, :] < 1.5).float().mean(dim=(-2, -1))
    coarse = torch.hypot(*filters.gradient(filters.block_mean(lightness, 2)))
    fineness = _log_ratio(magnitude.mean(dim=(-2, -1)), coarse.mean(dim=(-2, -1)), 0.3)
    detail_gradient = _detail_gradient(planes.lab[:, 0])
    haze = _dark_channel(planes.linear)
    high = max(1, haze.shape[-2] // 3)
    haze_gradient = haze[..., :high, :].mean(dim=(-2, -1)) - haze[..., -high:, :].mean(dim=(-2, -1))
    terms = {
        "layering": layering.log(),
        "gravity": lines.axis_share,
        "cooling": torch.tanh(cooling / 30),
        "ground": -calm_ground,
        "detail": torch.tanh(detail_gradient / 2),
        "fineness": fineness,
        "haze": torch.tanh(3 * haze_gradient),
        "convergence": filters.saturate(lines.convergence, 0.15),
    }
    values = {
        "layering": layering,
        "gravity": lines.axis_share,
        "cooling": cooling,
        "calm_ground": calm_ground,
        "detail_gradient": detail_gradient,
        "fineness": fineness,
        "haze_gradient": haze_gradient,
        "layers": _layers(lightness.mean(-1)),
        "convergence": lines.convergence,
    }
    strength = 0.3 + 0.7 * filters.ramp(scene.detail, 0.0, 0.2)
    return Measured(weighted(terms, WEIGHTS), strength, values, terms)


def _log_ratio(a: Tensor, b: Tensor, floor: float) -> Tensor:
    return ((a + floor) / (b + floor)).log()


def _detail_gradient(lightness: Tensor) -> Tensor:
    """Stops [B] by which the lower third of the frame has more fine detail than the upper third."""
    fine = filters.block_mean((lightness - filters.binomial(lightness)).abs(), 4)
    third = max(1, fine.shape[-2] // 3)
    upper, lower = fine[..., :third, :].mean(dim=(-2, -1)), fine[..., -third:, :].mean(dim=(-2, -1))
    return ((lower + 0.15) / (upper + 0.15)).log2()


def _dark_channel(linear: Tensor) -> Tensor:
    """Smallest linear light of the three colours in patches of 8 px at 256: [B, h, w] at 32 px."""
    least = linear.amin(1)
    rows, columns = least.shape[-2:]
    return least.reshape(-1, rows // 8, 8, columns // 8, 8).amin(dim=(2, 4))


def _layers(row_means: Tensor) -> Tensor:
    """Number [B] of tonal bands above each other: one more than the rows where the mean L* steps by over 6 in two."""
    p = filters.pad(row_means.unsqueeze(1), 0, 2).squeeze(1)
    step = (p[:, 4:] - p[:, :-4]).abs() * 0.5
    around = filters.pad(step.unsqueeze(1), 0, 1).squeeze(1)
    peak = (step >= around[:, :-2]) & (step > around[:, 2:]) & (step > 6)
    return 1 + peak.float().sum(1)


def evidence(values: Mapping[str, float]) -> list[str]:
    """Returns sentences on the depth, the most telling first: what was measured, for a white wall is as light as haze.

    Nothing is said of converging lines and of the number of layers: most such claims were false to the eye.
    """
    found = []
    if values["layering"] > 0.48:
        found.append(f"{values['layering']:.0%} of the change of tone and colour runs from the top to the bottom.")
    if values["haze_gradient"] > 0.2:
        found.append("The upper part has fewer dark tones than the lower, as under a light sky or in haze.")
    if values["cooling"] > 15:
        found.append("The upper third is bluer than the lower, and blue recedes.")
    if values["detail_gradient"] > 1:
        found.append("The lower third holds more fine detail than the upper, as a foreground does.")
    if values["calm_ground"] > 0.6:
        found.append(f"{values['calm_ground']:.0%} of the lower third is without texture: nothing there leads in.")
    return found or [
        "Of layers, haze, a cool distance and a detailed foreground none is strong; what overlaps, winds or shrinks "
        "into the distance is not measured."
    ]


def advice(values: Mapping[str, float]) -> str:
    """Returns what to try for more depth."""
    if values["calm_ground"] > 0.6 or values["detail_gradient"] < 0.3:
        return "For more depth, bring something with texture into the foreground: it gives the eye a first step."
    if values["convergence"] < 0.08:
        return "For more depth, use a line that runs from the foreground into the distance."
    return "For more depth, wait for haze or side light that sets near and far apart in tone."
