"""depth_perspective: how much depth the picture suggests.

Inputs: Lab at 256 and 64 px, the lines, linear light at 256 px for the dark channel.

- haze: dark channel (He, Sun and Tang 2009: the minimum over colours and a patch of linear light). In a deep scene
  it rises towards the distance, mostly upward; the difference of upper third and lower third is the gradient.
- detail gradient: log2 ratio of fine detail in the lower third to the upper third: texture is coarse nearby, gone afar
  (Gibson 1950).
- layers: horizontal bands of tone, counted as the peaks of the change of the rows' mean L*: ridges behind ridges.
- depth of field: spread of log2 local detail over the frame: a sharp plane between soft ones.
- convergence of slanting lines to one place.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from services.scorer.measures import filters
from services.scorer.measures.scene import Measured, Scene

UNITS = {
    "haze_gradient": "share of full light",
    "detail_gradient": "stops of detail",
    "layers": "bands",
    "layering": "",
    "focus_spread": "stops of detail",
    "convergence": "",
}


def measure(scene: Scene) -> Measured:
    """Returns the depth of each picture."""
    planes, lines = scene.planes, scene.lines
    haze = _dark_channel(planes.linear)
    third = max(1, haze.shape[-2] // 3)
    haze_gradient = haze[..., :third, :].mean(dim=(-2, -1)) - haze[..., -third:, :].mean(dim=(-2, -1))
    lightness = planes.lab[:, 0]
    fine = filters.block_mean((lightness - filters.binomial(lightness)).abs(), 4)
    top, bottom = fine[..., :third, :].mean(dim=(-2, -1)), fine[..., -third:, :].mean(dim=(-2, -1))
    detail_gradient = ((bottom + 0.15) / (top + 0.15)).log2()
    layers, layering = _layers(planes.small[:, 0])
    level = (filters.box(fine, 2) + 0.15).log2()
    focus_spread = level.flatten(1).std(1, unbiased=False)
    raw = (
        0.8 * torch.tanh(2.5 * haze_gradient)
        + 0.5 * torch.tanh(0.5 * detail_gradient)
        + 0.6 * layering
        + 0.25 * focus_spread
        + 0.8 * filters.saturate(lines.convergence, 0.15)
    )
    values = {
        "haze_gradient": haze_gradient,
        "detail_gradient": detail_gradient,
        "layers": layers,
        "layering": layering,
        "focus_spread": focus_spread,
        "convergence": lines.convergence,
    }
    return Measured(raw, 0.3 + 0.7 * filters.ramp(scene.detail, 0.0, 0.2), values)


def _dark_channel(linear: Tensor) -> Tensor:
    """Smallest linear light of the three colours in patches of 8 px at 256: [B, h, w] at 32 px."""
    least = linear.amin(1)
    rows, columns = least.shape[-2:]
    return least.reshape(-1, rows // 8, 8, columns // 8, 8).amin(dim=(2, 4))


def _layers(lightness: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the number of tonal bands, and the share of the variance of L* that rows explain, 0-1."""
    rows = lightness.mean(-1)
    change = (rows[:, 2:] - rows[:, :-2]).abs() if rows.shape[1] > 2 else torch.zeros_like(rows)
    inner = filters.pad(change.unsqueeze(1), 0, 1).squeeze(1)
    peak = (change >= inner[:, :-2]) & (change > inner[:, 2:]) & (change > 4)
    total = lightness.var(dim=(-2, -1), unbiased=False)
    return 1 + peak.float().sum(1), rows.var(1, unbiased=False) / (total + 4)


def evidence(values: Mapping[str, float]) -> list[str]:
    """Returns sentences on the depth, the most telling first."""
    found = []
    if values["haze_gradient"] > 0.08:
        found.append("Haze thickens upward, as distance does.")
    if values["layering"] > 0.4:
        found.append(f"{values['layers']:.0f} tonal layers lie one behind the other.")
    if values["detail_gradient"] > 0.7:
        found.append("Detail is coarse in the foreground and fades towards the top.")
    if values["convergence"] > 0.12:
        found.append("Slanting lines converge and lead into the distance.")
    if values["focus_spread"] > 1.2:
        found.append("A sharp plane stands between soft ones.")
    return found or ["Little suggests depth: no haze, layers or converging lines."]


def advice(values: Mapping[str, float]) -> str:
    """Returns what to try for more depth."""
    if values["detail_gradient"] < 0.3:
        return "Bring something into the near foreground, so that the eye has a first step."
    if values["convergence"] < 0.08:
        return "Use a line that runs from the foreground into the distance."
    return "Wait for haze or side light that sets the distances apart in tone."
