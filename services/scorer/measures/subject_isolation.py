"""subject_isolation: how clearly the subject stands out from its surroundings.

Inputs: the subject map (64 px) as soft figure and ground; Lab at 64 px; L* at 256 px.

- separation: d' = |mean Lab of figure - mean Lab of ground| over their pooled standard deviation (signal detection;
  Green and Swets 1966), which is a contrast that a busy ground lowers.
- calm: mean gradient of levelled L* of the ground at 64 px (the edge density of Rosenholtz, Li and Nakano 2007, at one
  scale): neither the exposure nor the fine grain of the picture changes it.
- falloff: log2 of the width of the ground's edges over that of the picture's strongest edges, from 0 to 3. The width
  is that of `focus_sharpness`, s = k / sqrt(q^2 - 1) after Zhuo and Sim (2011), from mean gradient energies less those
  of the picture's noise, which passes for sharp edges until a blur takes it away. Widths of blurs add up in squares, so
  blurring the whole picture closes the gap that blurring the background opens. What a lens is focused on is the
  subject, also where tone and colour do not find it: the strongest edges are sought in the whole frame.
- soft: log2 of what the width w of the strongest edges adds, 1 + (w / 2 px)^2, halved: a calm ground is no merit in a
  picture that is sharp nowhere.
- concentration, as far as it separates: in clutter any patch is compact, but it stands out from nothing.
- area of the subject: 4% to 45% of the frame is best.

The weights were set by hand on photographs of the fitting set whose background was cluttered or blurred.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from services.scorer.measures import filters
from services.scorer.measures.planes import Planes
from services.scorer.measures.scene import Measured, Scene, weighted

UNITS = {
    "subject_share": "share of the frame",
    "separation": "standard deviations",
    "colour_difference": "Lab units",
    "background_clutter": "L* a pixel",
    "busyness": "L* a 64th of the frame",
    "focus_gap": "stops of width",
    "concentration": "",
}

WEIGHTS = {"separation": 0.3, "calm": 1.6, "falloff": 0.6, "soft": 1.1, "concentration": 0.4, "area": 0.6}

_REBLUR = 1.0
"""Standard deviation in px of the re-blur, two passes of the 3x3 binomial kernel."""

_NOISE = 0.25 * (100 / 255) ** 2
"""Gradient energy, in squared L* a pixel at 256, of noise of one squared level of luma at 512: a mean of 2x2 leaves a
quarter, and a level is 100/255 L*, more in dark tones. The re-blur leaves next to nothing of it."""

_FLOOR = 0.05
"""Mean gradient energy, in squared L* a pixel, that counts as no edge."""


def measure(scene: Scene) -> Measured:
    """Returns the isolation of each picture's subject."""
    planes, subject = scene.planes, scene.subject
    figure = subject.map
    ground = (1 - figure).square()
    difference, separation = _separation(planes.small, figure, ground)
    clutter = filters.weighted_mean(filters.block_mean(planes.lightness_gradient, 4), ground)
    busyness = filters.weighted_mean(torch.hypot(*filters.gradient(planes.levelled[:, 0])), ground)
    figure_width, ground_width, least_width = _widths(planes, scene.noise.variance, figure.square(), ground)
    share = subject.share
    area = filters.ramp(0.06 - share, 0.0, 0.05) + filters.ramp(share, 0.4, 0.7)
    terms = {
        "separation": (1 + separation).log2(),
        "calm": -(1 + busyness / 4).log2(),
        "falloff": (ground_width / least_width).log2().clamp(0, 3),
        "soft": -0.5 * (1 + (least_width / 2).square()).log2(),
        "concentration": subject.concentration * filters.saturate(separation, 1.0),
        "area": -area,
    }
    values = {
        "subject_share": share,
        "separation": separation,
        "colour_difference": difference,
        "background_clutter": clutter,
        "busyness": busyness,
        "focus_gap": (ground_width / figure_width).log2(),
        "concentration": subject.concentration,
    }
    strength = (0.4 + 0.6 * subject.concentration) * filters.ramp(scene.detail, 0.0, 0.1)
    return Measured(weighted(terms, WEIGHTS), strength, values, terms)


def _widths(planes: Planes, noise: Tensor, *weights: Tensor) -> list[Tensor]:
    """Widths [B] of edges in px at 256, 0.3-8: under each of the weights [B, h, w] of 64 px, and of the strongest."""
    again = filters.binomial(filters.binomial(planes.lab[:, 0]))
    before = filters.block_mean(planes.lightness_gradient.square(), 4)
    right, down = filters.gradient(again)
    after = filters.block_mean(right * right + down * down, 4)
    n = _NOISE * noise
    found = []
    for weight in (*weights, before.square()):
        sharp = (filters.weighted_mean(before, weight) - n).clamp_min(0)
        q = (sharp + _FLOOR) / (filters.weighted_mean(after, weight) + _FLOOR)
        found.append((_REBLUR / (q.square() - 1).clamp_min(1 / 64).sqrt()).clamp(0.3, 8.0))
    return found


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


_BUSY, _CALM = 5.5, 2.0
"""L* a pixel of the surroundings beyond which a person calls them full of detail, and below which calm."""


def evidence(values: Mapping[str, float]) -> list[str]:
    """Returns sentences on the subject and its surroundings, the most telling first.

    How large the subject is, and that it is the softer part, is not said: what is found of it is about half, and smooth
    things pass for soft ones.
    """
    if values["concentration"] < 0.15:
        found = ["No subject could be told from the rest of the frame by tone and colour."]
    elif values["separation"] < 1:
        found = ["Tones and colours vary more within subject and surroundings than between them."]
    else:
        found = [
            f"What stands out differs {'clearly' if values['separation'] >= 2 else 'somewhat'} from its surroundings: "
            f"by {values['colour_difference']:.0f} Lab units, {values['separation']:.1f} standard deviations."
        ]
    clutter = values["background_clutter"]
    if clutter > _BUSY:
        found.append(f"The surroundings are full of detail: {clutter:.1f} L* a pixel.")
    elif clutter < _CALM:
        found.append(f"The surroundings are calm: {clutter:.1f} L* a pixel.")
    if values["focus_gap"] > 1:
        found.append("The background is softer than the subject, which sets it apart.")
    return found


def advice(values: Mapping[str, float]) -> str:
    """Returns what to try to set the subject apart."""
    if values["background_clutter"] > _BUSY:
        return "Open the aperture, or move so that a plainer background lies behind the subject."
    if values["concentration"] < 0.15:
        return "Let one thing stand clear of the rest: move until it has a plain ground of its own."
    if values["separation"] < 1.2:
        return "Look for a background of another tone or colour than the subject."
    if values["focus_gap"] > 1:
        return "The soft background helps already: let it differ in tone or colour as well."
    return "Put more distance between the subject and what is behind it, or open the aperture."
