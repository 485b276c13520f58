"""lighting: exposure and the use of the tonal range.

Inputs: L* at 256 px. Zones after Adams, "The Negative" (1981): zone = floor(L*/10), 0 to X (L* = 100).

- range = p99 - p1 and body = p95 - p5 of L* (share of 100); zones: the entropy of their histogram (share of log 11).
- local: mean distance of L* from the mean of 17 px around, c/(c + 8); large: standard deviation of the 64 px plane
  blurred over an eighth of the frame, c/(c + 15).
- top and bottom: how near p95 comes to 90 and p5 to 12; high key: how far the mean lies above 58.
- highlights and shadows: the shares w and b that are lost, which pile up in the lightest and in the darkest tone beyond
  1% (which is free, for a specular light or a deep shadow): w/(w + 0.3), for the first of it w/(w + 0.05), b/(b + 0.3).

Where a plain white or black ground runs round the frame the confidence falls: it may well be meant.

The weights were set by hand; those of `python -m services.scorer.weigh` on 100 photographs of the half of the fitting
set that is for development order fewer of 800 changes there (0.989 against 0.996).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from services.scorer.measures import filters
from services.scorer.measures.scene import Measured, Scene, weighted

UNITS = {
    "range": "L*",
    "mean": "L*",
    "black_share": "share of the frame",
    "white_share": "share of the frame",
    "lost_shadows": "share of the frame",
    "lost_highlights": "share of the frame",
    "zone_0_share": "share of the frame",
    "zone_10_share": "share of the frame",
    "zones_used": "zones of 11",
    "zone_entropy": "",
    "local_contrast": "L*",
    "large_contrast": "L*",
    "plain_ground": "share of the frame's edge",
}

WEIGHTS = {
    "range": 1.7,
    "zones": 0.8,
    "body": 0.9,
    "local": 1.4,
    "large": 0.9,
    "top": 0.5,
    "bottom": 0.4,
    "highlights": 1.4,
    "first highlights": 2.0,
    "shadows": 0.8,
    "high key": 0.5,
}

_FREE = 0.01

_DARK, _LIGHT = 38, 64
"""Mean L* at and beyond which a picture is called dark or light."""


def measure(scene: Scene) -> Measured:
    """Returns the lighting of each picture."""
    lightness = scene.planes.lab[:, 0]
    shares = scene.planes.lightness_shares
    levels = (0.01, 0.05, 0.95, 0.99)
    p1, p5, p95, p99 = filters.quantiles(shares, 0.0, 100.0, levels)
    mean = lightness.mean(dim=(-2, -1))
    zones = torch.stack([shares[:, 20 * z : 20 * (z + 1)].sum(1) for z in range(10)] + [shares[:, 197:].sum(1)], 1)
    zones[:, 9] -= zones[:, 10]
    zone_entropy = filters.entropy(zones)
    black, white = shares[:, :4].sum(1), shares[:, 196:].sum(1)
    local = (lightness - filters.box(lightness, 8)).abs().mean(dim=(-2, -1))
    small = scene.planes.small[:, 0]
    large = filters.box(small, max(small.shape[-2:]) // 16).std(dim=(-2, -1), unbiased=False)
    lost_black, lost_white = _lost(lightness, shares)
    high_key = (mean - 58).clamp_min(0) / 42
    terms = {
        "range": (p99 - p1) / 100,
        "zones": zone_entropy,
        "body": (p95 - p5) / 100,
        "local": filters.saturate(local, 8.0),
        "large": filters.saturate(large, 15.0),
        "top": p95.clamp_max(90) / 90,
        "bottom": -p5.clamp_min(12) / 50,
        "highlights": -filters.saturate(lost_white, 0.3),
        "first highlights": -filters.saturate(lost_white, 0.05),
        "shadows": -filters.saturate(lost_black, 0.3),
        "high key": -high_key,
    }
    values = {
        "range": p99 - p1,
        "mean": mean,
        "black_share": black,
        "white_share": white,
        "lost_shadows": lost_black,
        "lost_highlights": lost_white,
        "zone_0_share": zones[:, 0],
        "zone_10_share": zones[:, 10],
        "zones_used": (zones > 0.005).float().sum(1),
        "zone_entropy": zone_entropy,
        "local_contrast": local,
        "large_contrast": large,
        "plain_ground": scene.plain_ground,
    }
    return Measured(weighted(terms, WEIGHTS), filters.ramp(p99 - p1, 0.0, 30.0) * scene.doubt, values, terms)


def _lost(lightness: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Shares [B] of the frame beyond 1% that pile up in the darkest and in the lightest tone.

    A tone that was clipped stays a pile at the end of the tones wherever development moves it; so the piles are looked
    for at the ends of the picture's own range, not at black and white.
    """
    low, high = filters.quantiles(shares, 0.0, 100.0, (0.001, 0.999))
    width = (0.3 + 0.015 * (high - low)).view(-1, 1, 1)
    at_low = (lightness <= low.view(-1, 1, 1) + width).float().mean(dim=(-2, -1))
    at_high = (lightness >= high.view(-1, 1, 1) - width).float().mean(dim=(-2, -1))
    return (at_low - _FREE).clamp_min(0), (at_high - _FREE).clamp_min(0)


def evidence(values: Mapping[str, float]) -> list[str]:
    """Returns sentences on the lighting, the most telling first."""
    found = []
    if values["plain_ground"] > 0.75:
        tone = "white" if values["white_share"] > values["black_share"] else "black"
        found.append(f"The subject stands on plain {tone}, which counts here as lost detail: trust this score little.")
    if values["white_share"] > _FREE:
        found.append(f"{values['white_share']:.0%} of the pixels are white without detail.")
    if values["black_share"] > _FREE:
        found.append(f"{values['black_share']:.0%} of the pixels are black without detail.")
    darkest = f"; {values['zone_0_share']:.0%} of the pixels lie in zone 0" if values["zone_0_share"] >= 0.01 else ""
    found.append(f"{values['zones_used']:.0f} of 11 zones are used, over a range of {values['range']:.0f} L*{darkest}.")
    if not _DARK < values["mean"] < _LIGHT:
        side = "dark" if values["mean"] <= _DARK else "light"
        found.append(f"The mean tone is {side}: zone {values['mean'] / 10:.1f}.")
    if values["local_contrast"] < 3:
        found.append(f"Neighbouring tones differ little, by {values['local_contrast']:.1f} L*.")
    return found


def advice(values: Mapping[str, float]) -> str:
    """Returns what to try for better lighting."""
    if values["white_share"] > 0.03 and values["white_share"] >= values["black_share"]:
        return "If the whites should show detail, expose for them: about one stop less."
    if values["black_share"] > 0.03:
        return "If the shadows should show detail, give them one to two stops more, or lift them when developing."
    if values["mean"] < 35:
        return "Expose one stop more, unless the dark is meant: most tones lie below middle grey."
    if values["mean"] > 68:
        return "Expose one stop less, unless the lightness is meant: most tones lie above middle grey."
    if values["range"] < 85:
        return "Set a true black and a true white when developing: the range is short of one or both."
    return "Look for light from the side, which separates the tones, or raise the local contrast when developing."
