"""depth_perspective: how much depth the picture suggests.

Inputs: levelled Lab at 64 px, L* at 256 px, linear light at 256 px for the dark channel, and the lines.

- stratification: log ratio of the variance of the rows' mean L* to that of the columns': ground, distance and sky lie
  above each other, while things on a table do not; and the Lab distance of upper and lower third.
- ground: the share of the lower third that is calm; a ground with texture is one that can be seen to recede.
- detail gradient: log2 ratio of fine detail in the lower third to the upper third: texture is coarse nearby and gone
  afar (Gibson 1950, "The Perception of the Visual World").
- fineness: log ratio of gradients at 64 px to those at 32 px: a deep scene has structure down to the smallest scale
  (Torralba and Oliva 2002, "Depth estimation from image structure").
- width: log ratio of gradients in the outer eighths at the sides to those of the whole: a view goes on beyond the
  frame.
- haze: dark channel (He, Sun and Tang 2009: the least of the three colours in a patch, in linear light), upper third
  minus lower third.
- convergence of slanting lines to one place.

    raw = 0.3 tanh(strata/2) + 0.7 d/(d + 20) - 0.45 calm + 0.4 tanh(detail/2) + 1.6 fineness + 0.3 width
          + 0.1 tanh(3 haze) + 1.2 c/(c + 0.15)

The weights are those of a ridge that tells 77 scenes from 150 objects of the fitting set, rounded; haze was given a
little more than the ridge did, since the set has few mountains.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from services.scorer.measures import filters
from services.scorer.measures.scene import Measured, Scene

UNITS = {
    "stratification": "log ratio",
    "top_bottom_difference": "Lab units after levelling",
    "calm_ground": "share of the lower third",
    "detail_gradient": "stops of detail",
    "fineness": "log ratio",
    "side_detail": "log ratio",
    "haze_gradient": "share of full light",
    "layers": "bands",
    "convergence": "",
}


def measure(scene: Scene) -> Measured:
    """Returns the depth of each picture."""
    planes, lines = scene.planes, scene.lines
    levelled = planes.levelled
    lightness = levelled[:, 0]
    rows, columns = lightness.shape[-2:]
    third = max(1, rows // 3)
    row_means, column_means = lightness.mean(-1), lightness.mean(-2)
    strata = ((_variance(row_means) + 4) / (_variance(column_means) + 4)).log()
    upper, lower = levelled[..., :third, :].mean(dim=(-2, -1)), levelled[..., -third:, :].mean(dim=(-2, -1))
    difference = (upper - lower).square().sum(1).sqrt()
    magnitude = torch.hypot(*filters.gradient(lightness))
    calm_ground = (magnitude[..., -third:, :] < 1.5).float().mean(dim=(-2, -1))
    coarse = torch.hypot(*filters.gradient(filters.block_mean(lightness, 2)))
    fineness = _log_ratio(magnitude.mean(dim=(-2, -1)), coarse.mean(dim=(-2, -1)), 0.3)
    eighth = max(1, columns // 8)
    at_sides = 0.5 * (magnitude[..., :eighth] + magnitude[..., -eighth:]).mean(dim=(-2, -1))
    side_detail = _log_ratio(at_sides, magnitude.mean(dim=(-2, -1)), 0.5)
    detail_gradient = _detail_gradient(planes.lab[:, 0])
    haze = _dark_channel(planes.linear)
    high = max(1, haze.shape[-2] // 3)
    haze_gradient = haze[..., :high, :].mean(dim=(-2, -1)) - haze[..., -high:, :].mean(dim=(-2, -1))
    raw = (
        0.3 * torch.tanh(strata / 2)
        + 0.7 * filters.saturate(difference, 20.0)
        - 0.45 * calm_ground
        + 0.4 * torch.tanh(detail_gradient / 2)
        + 1.6 * fineness
        + 0.3 * side_detail
        + 0.1 * torch.tanh(3 * haze_gradient)
        + 1.2 * filters.saturate(lines.convergence, 0.15)
    )
    values = {
        "stratification": strata,
        "top_bottom_difference": difference,
        "calm_ground": calm_ground,
        "detail_gradient": detail_gradient,
        "fineness": fineness,
        "side_detail": side_detail,
        "haze_gradient": haze_gradient,
        "layers": _layers(row_means),
        "convergence": lines.convergence,
    }
    return Measured(raw, 0.3 + 0.7 * filters.ramp(scene.detail, 0.0, 0.2), values)


def _variance(x: Tensor) -> Tensor:
    return x.var(dim=-1, unbiased=False)


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
    """Returns sentences on the depth, the most telling first."""
    found = []
    if values["stratification"] > 1 and values["layers"] >= 2:
        found.append(f"{values['layers']:.0f} tonal layers lie above each other, from near to far.")
    if values["haze_gradient"] > 0.12:
        found.append("Haze thickens upward, as distance does.")
    if values["detail_gradient"] > 0.7:
        found.append("Detail is coarse in the foreground and fades towards the top.")
    if values["convergence"] > 0.12:
        found.append("Slanting lines converge and lead into the distance.")
    if values["calm_ground"] > 0.6:
        found.append(f"{values['calm_ground']:.0%} of the foreground is without texture: it does not recede.")
    return found or ["Little suggests depth: no layers, haze or converging lines."]


def advice(values: Mapping[str, float]) -> str:
    """Returns what to try for more depth."""
    if values["calm_ground"] > 0.6 or values["detail_gradient"] < 0.3:
        return "Bring something with texture into the near foreground, so that the eye has a first step."
    if values["convergence"] < 0.08:
        return "Use a line that runs from the foreground into the distance."
    return "Wait for haze or side light that sets the distances apart in tone."
