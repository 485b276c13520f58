"""emotional_impact: drama of tone, energy of colour and scale. The least certain of the eight.

Inputs: Lab at 64 px, averaged over 3 x 3 cells and levelled: L* is stretched so that its 1st to 99th percentile spans 5
to 95 (a range below 15 as if it were 15), and chroma by the same factor. Exposure and contrast are judged by lighting;
here counts what is left when they are put right. Nothing finer than a twentieth of the frame is read: sharpness is
focus_sharpness's.

- drama: share of the frame in shadow times share in light: both ends present at once (chiaroscuro).
- colour energy: mean distance of a*b* from their mean, warm colours counting half as much again (Valdez and
  Mehrabian 1994: arousal rises with saturation).
- large-scale contrast: standard deviation of L* after blurring over an eighth of the frame.
- scale: how much of the variation of L* is of large scale (one big gesture against many small ones).

The weights were set by hand.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from services.scorer.measures import filters
from services.scorer.measures.planes import stretched
from services.scorer.measures.scene import Measured, Scene, weighted

UNITS = {
    "drama": "",
    "dark_share": "share of the frame",
    "light_share": "share of the frame",
    "colour_energy": "C* after levelling",
    "large_contrast": "L* after levelling",
    "scale": "",
}

WEIGHTS = {"drama": 0.8, "energy": 0.5, "large": 1.2, "scale": 1.0}


def measure(scene: Scene) -> Measured:
    """Returns the emotional impact of each picture, as far as signal tells."""
    levelled, _ = stretched(filters.box(scene.planes.small, 1))
    lightness, a, b = levelled.unbind(1)
    dark = filters.ramp(40 - lightness, 0.0, 30.0).mean(dim=(-2, -1))
    light = filters.ramp(lightness, 60.0, 90.0).mean(dim=(-2, -1))
    drama = (4 * filters.saturate(dark, 0.25) * filters.saturate(light, 0.15)).clamp(0, 1)
    # Measured from the mean colour: contrast of colours, which a cast does not feign.
    from_mean = torch.hypot(a - a.mean(dim=(-2, -1), keepdim=True), b - b.mean(dim=(-2, -1), keepdim=True))
    warm = 0.5 + 0.5 * torch.cos(torch.atan2(b, a) - 0.96)
    energy = (from_mean * (0.75 + 0.5 * warm)).mean(dim=(-2, -1))
    radius = max(lightness.shape[-2:]) // 16
    large = filters.box(lightness, radius).std(dim=(-2, -1), unbiased=False)
    scale = large.square() / (lightness.var(dim=(-2, -1), unbiased=False) + 4)
    terms = {
        "drama": drama,
        "energy": filters.saturate(energy, 15.0),
        "large": filters.saturate(large, 15.0),
        "scale": scale,
    }
    values = {
        "drama": drama,
        "dark_share": dark,
        "light_share": light,
        "colour_energy": energy,
        "large_contrast": large,
        "scale": scale,
    }
    strength = 0.2 + 0.8 * filters.ramp(scene.detail, 0.0, 0.2)
    return Measured(weighted(terms, WEIGHTS), strength, values, terms)


def evidence(values: Mapping[str, float]) -> list[str]:
    """Returns sentences on what moves, the most telling first.

    Dark and light are the picture's own, after its tones are stretched: no claim is made on how dark they were.
    """
    found = []
    if values["drama"] > 0.8:
        found.append(f"Dark parts ({values['dark_share']:.0%}) stand against light ones ({values['light_share']:.0%}).")
    if values["large_contrast"] > 22:
        found.append(f"The large shapes contrast strongly: {values['large_contrast']:.0f} L*.")
    if values["colour_energy"] > 22:
        found.append(f"The colours contrast with each other: {values['colour_energy']:.0f} C*.")
    if values["scale"] > 0.8:
        found.append("Tone changes in large shapes rather than in small ones.")
    return found or ["Neither the contrast of the large shapes nor that of the colours is unusually strong."]


def advice(values: Mapping[str, float]) -> str:
    """Returns what to try for more impact."""
    if values["large_contrast"] < 16:
        return "Look for one large shape of light against dark, visible even at the size of a stamp."
    if values["drama"] < 0.6:
        return "Look for light in which deep shadow and brightness stand side by side, as at the edge of the day."
    if values["scale"] < 0.73:
        return "Simplify: let one shape take more of the frame."
    return "Let one colour or one tone break the quiet of the rest."
