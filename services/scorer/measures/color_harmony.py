"""color_harmony: how well the colours stand together; of a monochrome picture, its tones.

Inputs: CIELAB at 128 px for coherence, at 64 px for the palette. Hue h = atan2(b*, a*), chroma C*. Chroma is
levelled: it grows by the factor that would stretch the picture's L* to the full range, so that a thin exposure or a
flat light, which thin all colours out, are left to lighting.

Palette and broad coherence read a* and b* after one 3x3 binomial blur, so that a blur of the photograph, which takes
nothing from its harmony, adds little to what is taken already.

- Palette: the chroma-weighted hue histogram (72 bins) against the seven chromatic harmonic templates of Matsuda
  (1995) in the form of Cohen-Or et al. (2006), turned in steps of 5 degrees. The cost of a template is the mean
  distance in degrees of the histogram from its sectors plus 0.12 of its open width, so that wide templates do not
  always win.
- Hue entropy: the spread of the histogram. Both count as far as there is chroma beyond 5 to tell hues by.
- Coherence: length of the mean colour vector in 5 x 5 px over the mean chroma there, at 128 and at 64 px (broad),
  beyond what the picture's noise explains; scrambled colour is low.
- Broken: colour that changes from pixel to pixel at 512 px by more than noise of its luma would (see `noise`).
- Chroma: mean C* beyond 16; strong: the share of C* beyond 60 to 110. Oversaturation raises both.
- Cast: what should be neutral is not. Of the lightest fifth of the frame the least coloured tenth: the distance of its
  mean a*b* from grey (in C*). Most scenes have a light that shows white or grey somewhere; a cast tints it, and a
  strong colour elsewhere does not.

The weights were set by hand on 153 photographs of the half of the fitting set that is for development. Those that
`python -m services.scorer.weigh` had found there ordered its changes as well, but let chroma and cast decide alone:
over photographs the score followed them (correlations 0.83 and 0.85), and the palette not at all (0.04 and less).

A monochrome picture is judged on tonal harmony instead, of levelled L* at 64 px: how much of its variation is of large
scale (masses of tone, not scattered spots; variance after averaging 7 x 7 cells over that after 3 x 3), and how evenly
neighbouring steps of 5 L* follow each other. It is put on the scale of colours, with which it is blended.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping

import torch
from torch import Tensor

from services.scorer.measures import filters
from services.scorer.measures.scene import Measured, Scene, weighted

UNITS = {
    "template_distance": "degrees",
    "template": "index",
    "template_angle": "degrees",
    "hue_entropy": "",
    "coherence": "",
    "broad_coherence": "",
    "broken_color": "",
    "mean_chroma": "C* after levelling",
    "strong_share": "share of the frame",
    "cast": "C* after levelling",
    "cast_hue": "degrees",
    "color_weight": "",
    "tonal_masses": "",
    "tonal_steps": "",
}

WEIGHTS = {
    "template": 0.88,
    "few hues": 2.1,
    "coherence": 5.0,
    "broad coherence": 4.0,
    "broken": 10.0,
    "chroma": 1.2,
    "strong": 1.7,
    "cast": 2.0,
}

_MIDDLE_DISTANCE, _MIDDLE_ENTROPY = 9.4, 0.54
"""Medians over the colour photographs of the fitting set."""

_BINS = 72
TEMPLATES = {
    "i": ((0.0, 18.0),),
    "V": ((0.0, 93.6),),
    "L": ((0.0, 18.0), (90.0, 79.2)),
    "I": ((0.0, 18.0), (180.0, 18.0)),
    "T": ((0.0, 180.0),),
    "Y": ((0.0, 93.6), (180.0, 18.0)),
    "X": ((0.0, 93.6), (180.0, 93.6)),
}
"""Name -> sectors as (centre, width) in degrees. N, the eighth, is the template of pictures without colour."""

_HUES = ("pink", "red", "orange", "yellow", "green", "blue-green", "blue", "purple", "pink")
_HUES_END = (18, 47, 82, 114, 170, 220, 309, 340)
"""Degrees at which a name ends, half-way between the colours that the CSS standard calls so: there pink is 8, red 40,
orange 73, gold 91, yellow 103, green 136, cyan 196, blue 306 and purple 328.
"""
_OLIVE = 98
"""Degrees from which dark or quiet yellow, as of grass in the sun, is called green."""


def _template_table() -> Tensor:
    """Distances in degrees [templates * rotations, bins] of each hue from the nearest sector, plus the width's cost."""
    hue = (torch.arange(_BINS) + 0.5) * (360 / _BINS)
    turns = torch.arange(_BINS) * (360 / _BINS)
    rows = []
    for sectors in TEMPLATES.values():
        per_sector = []
        for centre, width in sectors:
            offset = (hue.unsqueeze(0) - turns.unsqueeze(1) - centre + 180) % 360 - 180
            per_sector.append((offset.abs() - width / 2).clamp_min(0))
        open_width = sum(width for _, width in sectors)
        rows.append(torch.stack(per_sector).amin(0) + 0.12 * open_width)
    return torch.cat(rows)


_TABLE = _template_table()


def measure(scene: Scene) -> Measured:
    """Returns the harmony of colours, blended with the harmony of tones by how far a picture is in colour."""
    lab, levelled = scene.planes.lab, scene.planes.levelled
    gain = scene.planes.gain.view(-1, 1, 1)
    a, b = levelled[:, 1], levelled[:, 2]
    chroma = torch.hypot(a, b)
    broad_a, broad_b = filters.binomial(a), filters.binomial(b)
    hue = torch.rad2deg(torch.atan2(broad_b, broad_a)) % 360
    # Chroma below 5 has no hue to speak of: the weight leaves it out.
    hued = (torch.hypot(broad_a, broad_b) - 5).clamp_min(0)
    shares = filters.histogram(hue, 0.0, 360.0, _BINS, hued + 1e-4)
    # Where there is hardly any, a few cells decide the palette: it counts for less, and the middle for the rest.
    told = filters.saturate(hued.mean(dim=(-2, -1)), 0.5)
    costs = shares @ _TABLE.to(shares.device).T
    distance, which = costs.min(1)
    entropy = filters.entropy(shares)
    noise = scene.chroma_noise.view(-1, 1, 1)
    fine = filters.block_mean(lab[:, 1:], 2) * gain.unsqueeze(1)
    coherence = _coherence(fine[:, 0], fine[:, 1], gain * (1.0 + noise / 4))
    broad = _coherence(broad_a, broad_b, gain * (0.4 + noise / 12))
    broken = scene.noise.broken
    mean_chroma = chroma.mean(dim=(-2, -1))
    strong = filters.ramp(scene.planes.chroma * gain, 60.0, 110.0).mean(dim=(-2, -1))
    cast_a, cast_b = _cast(levelled, chroma)
    cast = torch.hypot(cast_a, cast_b)
    terms = {
        "template": -(told * distance + (1 - told) * _MIDDLE_DISTANCE) / 40,
        "few hues": -(told * entropy + (1 - told) * _MIDDLE_ENTROPY),
        "coherence": coherence,
        "broad coherence": broad,
        "broken": -broken,
        "chroma": -filters.saturate((mean_chroma - 16).clamp_min(0), 28.0),
        "strong": -filters.saturate(strong, 0.25),
        "cast": -filters.saturate((cast - 3).clamp_min(0), 20.0),
    }
    colour = weighted(terms, WEIGHTS)
    masses, steps = _tones(scene)
    # On the scale of colours (their median and spread over the fitting set), or what is half in colour would be beyond
    # both of the tables that it is looked up in.
    tonal = 7.2 + 4.3 * (1.5 * masses + steps - 1.7)
    weight = scene.color_weight
    values = {
        "template_distance": distance,
        "template": (which // _BINS).float(),
        "template_angle": (which % _BINS).float() * (360 / _BINS),
        "hue_entropy": entropy,
        "coherence": coherence,
        "broad_coherence": broad,
        "broken_color": broken,
        "mean_chroma": mean_chroma,
        "strong_share": strong,
        "cast": cast,
        "cast_hue": torch.rad2deg(torch.atan2(cast_b, cast_a)) % 360,
        "color_weight": weight,
        "tonal_masses": masses,
        "tonal_steps": steps,
    }
    # Tonal harmony is another quantity: a monochrome picture is trusted less, and calibrated by its own table.
    strength = (0.5 + 0.5 * weight) * filters.ramp(scene.detail, 0.0, 0.1)
    return Measured(weight * colour + (1 - weight) * tonal, strength, values, terms)


def _coherence(a: Tensor, b: Tensor, free: Tensor) -> Tensor:
    """Agreement [B] of colour in 5 x 5 px, 0-1. Disagreement of up to `free` C* costs nothing: so much is noise."""
    mean = torch.hypot(filters.box(a, 2), filters.box(b, 2))
    around = filters.box(torch.hypot(a, b), 2)
    lost = (around - mean - free).clamp_min(0)
    return 1 - lost.mean(dim=(-2, -1)) / (around.mean(dim=(-2, -1)) + 1)


def _cast(lab: Tensor, chroma: Tensor) -> tuple[Tensor, Tensor]:
    """Mean a*, b* [B] of what should be neutral: of the lightest fifth the least coloured tenth."""
    a, b, chroma = lab[:, 1].flatten(1), lab[:, 2].flatten(1), chroma.flatten(1)
    light = lab[:, 0].flatten(1).topk(max(1, a.shape[1] // 5), dim=1).indices
    greyest = chroma.gather(1, light).topk(max(1, a.shape[1] // 50), dim=1, largest=False).indices
    neutral = light.gather(1, greyest)
    return a.gather(1, neutral).mean(1), b.gather(1, neutral).mean(1)


def _tones(scene: Scene) -> tuple[Tensor, Tensor]:
    """Share of the variance of L* that is of large scale, and how evenly the zones follow each other; each 0-1."""
    lightness = scene.planes.levelled[:, 0]
    total = filters.box(lightness, 1).var(dim=(-2, -1), unbiased=False)
    masses = filters.box(lightness, 3).var(dim=(-2, -1), unbiased=False) / (total + 4)
    shares = filters.histogram(lightness, 0.0, 100.0, 20)
    jumps = (shares[:, 1:] - shares[:, :-1]).abs().sum(1)
    return masses.clamp(0, 1), 1 - filters.saturate(jumps, 0.5)


def evidence(values: Mapping[str, float]) -> list[str]:
    """Returns sentences on the colours, or on the tones of a monochrome picture."""
    if values["color_weight"] < 0.5:
        masses = values["tonal_masses"]
        return [
            "The photograph is monochrome, or nearly of one hue: judged on tonal harmony.",
            f"{masses:.0%} of the variation of tone lies in broad masses, {1 - masses:.0%} in small patches.",
        ]
    found = [_palette(values)]
    if values["cast"] > 8:
        hue, chroma = hue_name(values["cast_hue"]), values["cast"]
        found.append(f"The greyest of the light parts lean to {hue} by {chroma:.0f} C*: a cast, or their own colour.")
    if values["strong_share"] > 0.1 or values["mean_chroma"] > 35:
        found.append(f"The colours are strong: mean chroma {values['mean_chroma']:.0f} C*.")
    if values["broken_color"] > 0.02 or values["coherence"] < 0.85:
        found.append("Neighbouring pixels differ in hue: the colour is broken up.")
    return found


def _palette(values: Mapping[str, float]) -> str:
    """Says where the hues lie, by the template that fits them best."""
    if values["mean_chroma"] < 8:
        return f"Most of the frame has little colour: mean chroma {values['mean_chroma']:.0f} C*."
    name, angle, entropy = list(TEMPLATES)[int(values["template"])], values["template_angle"], values["hue_entropy"]
    # Mean distance in degrees from the sectors.
    beyond = values["template_distance"] - 0.12 * sum(width for _, width in TEMPLATES[name])
    if entropy > 0.7 or (beyond > 9.5 and entropy > 0.6):
        return "The colours are of many hues: no one or two of them lead."
    if name == "i" and beyond > 5:
        return f"Most colours lie {_between(angle, 20)}."
    sectors = [
        f"near {_plain(angle + centre)}" if width < 20 else _between(angle + centre, width / 2)
        for centre, width in TEMPLATES[name]
    ]
    return f"Most colours lie {', and '.join(sectors)}."


def _between(hue: float, reach: float) -> str:
    low, high = _plain(hue - reach), _plain(hue + reach)
    return f"near {low}" if low == high else f"between {low} and {high}"


def _plain(hue: float) -> str:
    """The name of a hue whose lightness is not known: dark or quiet orange is called brown."""
    name = hue_name(hue)
    if name == "yellow" and hue % 360 >= _OLIVE:
        return "yellow or green"
    return "orange or brown" if name == "orange" else name


def hue_name(hue: float) -> str:
    """Returns the everyday name of a CIELAB hue in degrees."""
    return _HUES[bisect(_HUES_END, hue % 360)]


def advice(values: Mapping[str, float]) -> str:
    """Returns what to try for better harmony."""
    if values["color_weight"] < 0.5:
        if values["tonal_masses"] > 0.76:
            return "Let the tones pass into each other in more steps: some are crowded and their neighbours empty."
        return "Look for broader masses of tone, and let one tone lead from shadow to light."
    if values["cast"] > 8:
        hue = hue_name(values["cast_hue"])
        return f"Set the white balance on a neutral surface, unless the {hue} is the things' own colour."
    if values["strong_share"] > 0.1 or values["mean_chroma"] > 35:
        return "Take back the saturation: a few strong colours carry further among quiet ones."
    if values["hue_entropy"] > 0.7:
        return "Leave colours out: frame so that two or three hues remain."
    if list(TEMPLATES)[int(values["template"])] == "i":
        return "One hue leads already: a small accent of its opposite would answer it."
    return "Let one hue lead and answer it with its neighbour or its opposite."
