"""subject_isolation: how clearly the subject stands out from its surroundings.

Inputs: the subject map (64 px) as soft figure and ground; Lab at 64 px; L* gradients at 256 px.

- separation: d' = |mean Lab of figure - mean Lab of ground| over their pooled standard deviation (signal detection;
  Green and Swets 1966), which is a contrast that a busy ground lowers.
- clutter: mean gradient of the ground (the edge density of Rosenholtz et al. 2007, without its scale sum) as log2
  of its ratio to that of the figure: neither the exposure nor the sharpness of the whole picture changes it.
- busyness: mean gradient of levelled L* of the ground at 64 px, where a blur of the whole picture hardly shows.
- focus gap: log2 ratio of fine detail in the figure to that in the ground (detail: L* against its 3x3 blur).
- concentration, as far as it separates: in clutter any patch is compact, but it stands out from nothing.
- area of the subject: 4% to 45% of the frame is best.

    raw = 0.5 log2(1 + d') - 0.6 clutter - 1.2 log2(1 + busyness/4) + 0.15 gap + 0.8 concentration d'/(d' + 1)
          - 0.5 area
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from services.scorer.measures import filters
from services.scorer.measures.scene import Measured, Scene

UNITS = {
    "subject_share": "share of the frame",
    "separation": "standard deviations",
    "colour_difference": "Lab units",
    "background_clutter": "L* a pixel",
    "relative_clutter": "stops of gradient",
    "busyness": "L* a 64th of the frame",
    "focus_gap": "stops of detail",
    "concentration": "",
}


def measure(scene: Scene) -> Measured:
    """Returns the isolation of each picture's subject."""
    planes, subject = scene.planes, scene.subject
    figure = subject.map
    ground = (1 - figure).square()
    difference, separation = _separation(planes.small, figure, ground)
    _, _, magnitude = planes.lightness_gradient
    coarse = filters.block_mean(magnitude, 4)
    clutter = filters.weighted_mean(coarse, ground)
    busy = figure * (1 - figure) * 4 + figure
    edge_floor = 0.02 * planes.lab[:, 0].std(dim=(-2, -1), unbiased=False) + 0.05
    relative = ((clutter + edge_floor) / (filters.weighted_mean(coarse, busy) + edge_floor)).log2()
    busyness = filters.weighted_mean(torch.hypot(*filters.gradient(planes.levelled[:, 0])), ground)
    lightness = planes.lab[:, 0]
    fine = filters.block_mean((lightness - filters.binomial(lightness)).abs(), 4)
    gap = ((filters.weighted_mean(fine, figure) + 0.1) / (filters.weighted_mean(fine, ground) + 0.1)).log2()
    share = subject.share
    area = filters.ramp(0.06 - share, 0.0, 0.05) + filters.ramp(share, 0.4, 0.7)
    raw = (
        0.5 * (1 + separation).log2()
        - 0.6 * relative
        - 1.2 * (1 + busyness / 4).log2()
        + 0.15 * gap.clamp(-2, 4)
        + 0.8 * subject.concentration * filters.saturate(separation, 1.0)
        - 0.5 * area
    )
    values = {
        "subject_share": share,
        "separation": separation,
        "colour_difference": difference,
        "background_clutter": clutter,
        "relative_clutter": relative,
        "busyness": busyness,
        "focus_gap": gap,
        "concentration": subject.concentration,
    }
    strength = (0.4 + 0.6 * subject.concentration) * filters.ramp(scene.detail, 0.0, 0.1)
    return Measured(raw, strength, values)


def _separation(lab: Tensor, figure: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the distance of the mean colours in Lab units, and the same in pooled standard deviations: [B] each."""
    means, spreads = [], []
    for weight in (figure, ground):
        w = weight.unsqueeze(1)
        total = w.sum(dim=(-2, -1)).clamp_min(1e-3)
        mean = (lab * w).sum(dim=(-2, -1)) / total
        deviation = (lab - mean[..., None, None]).square() * w
        means.append(mean)
        spreads.append((deviation.sum(dim=(-2, -1)) / total).sum(1))
    difference = (means[0] - means[1]).square().sum(1).sqrt()
    return difference, difference / (0.5 * (spreads[0] + spreads[1]) + 16).sqrt()


def evidence(values: Mapping[str, float]) -> list[str]:
    """Returns sentences on the subject and its surroundings, the most telling first."""
    if values["concentration"] < 0.15:
        found = ["No single subject separates from the rest of the frame."]
    else:
        found = [
            f"The subject is {values['subject_share']:.0%} of the frame and differs from its surroundings "
            f"by {values['colour_difference']:.0f} Lab units ({values['separation']:.1f} standard deviations)."
        ]
    clutter = values["background_clutter"]
    if clutter > 3:
        found.append(f"The background is busy: {clutter:.1f} L* a pixel.")
    elif clutter < 1:
        found.append(f"The background is calm: {clutter:.1f} L* a pixel.")
    if values["focus_gap"] > 1:
        found.append(f"The subject holds {2 ** values['focus_gap']:.1f} times the fine detail of its background.")
    elif values["focus_gap"] < -0.5:
        found.append("The background is sharper than the subject.")
    return found


def advice(values: Mapping[str, float]) -> str:
    """Returns what to try to set the subject apart."""
    if values["background_clutter"] > 3:
        return "Open the aperture, or move so that a plainer background lies behind the subject."
    if values["concentration"] < 0.15:
        return "Move closer to one subject, so that it fills between a tenth and a third of the frame."
    if values["separation"] < 1.2:
        return "Look for a background of another tone or colour than the subject."
    return "Put more distance between the subject and what is behind it."
