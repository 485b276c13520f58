"""What can be said about any picture because it can be measured: ten numbers and nine facts.

A fact is a class of a number that is measured from the pixels alone, so that it is as true of a
photograph as of a drawn picture: the mini model learns to read the facts from drawn pictures and is
scored on photographs by the same code. Numbers are measured at a working size of about 112 x 112
pixels (the aspect ratio is kept), which is what the mini model sees; the borders between the
classes are round numbers on perceptual scales, chosen by eye and not fitted to any set of pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WORKING_AREA: Final = 112 * 112
"""Pictures with more pixels are scaled down to this many before they are measured."""

NUMBERS: Final = (
    "lightness", "spread", "chroma", "warmth", "right", "top", "detail", "blacks", "whites", "level",
)  # fmt: skip
"""The measured numbers, in the order of the columns of `measure`."""

FACTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "brightness": ("dark", "balanced", "bright"),
        "contrast": ("soft", "moderate", "strong"),
        "color": ("monochrome", "warm", "cool", "mixed"),
        "saturation": ("muted", "vivid"),
        "light": ("left", "right", "top", "bottom", "even"),
        "detail": ("smooth", "mixed", "fine"),
        "shadows": ("deep", "open"),
        "highlights": ("brilliant", "quiet"),
        "lines": ("level", "upright", "free"),
    }
)
"""Fact -> its classes. `saturation` is not stated (None) of a monochrome picture."""

DARK_BELOW: Final = 38.0
BRIGHT_ABOVE: Final = 60.0
SOFT_BELOW: Final = 14.0
STRONG_ABOVE: Final = 22.0
MONOCHROME_BELOW: Final = 5.0
WARM_ABOVE: Final = 4.0
VIVID_ABOVE: Final = 20.0
UNEVEN_ABOVE: Final = 8.0
SMOOTH_BELOW: Final = 3.0
FINE_ABOVE: Final = 7.0
DEEP_ABOVE: Final = 0.06
BRILLIANT_ABOVE: Final = 0.06
DIRECTED_ABOVE: Final = 0.8

BLACK_LSTAR: Final = 15.0
WHITE_LSTAR: Final = 85.0

NEAR: Final[Mapping[str, float]] = MappingProxyType(
    {
        "brightness": 3.0,
        "contrast": 1.5,
        "color": 2.0,
        "saturation": 3.0,
        "light": 6.0,
        "detail": 0.8,
        "shadows": 0.03,
        "highlights": 0.03,
        "lines": 0.5,
    }
)
"""Fact -> a number nearer than this to the border of its classes is too close to call (units in `measure`)."""


@dataclass(frozen=True)
class Reading:
    """What was measured of one picture.

    numbers: number -> value (units in `measure`). facts: fact -> class, or None where the fact does
    not apply. margins: fact -> distance of the number that decides it from the nearest border, in
    that number's unit, 0 or more: small means that two people could call it differently.
    """

    numbers: Mapping[str, float]
    facts: Mapping[str, str | None]
    margins: Mapping[str, float]

    @property
    def unsure(self) -> frozenset[str]:
        """The facts that are too close to call (`NEAR`)."""
        return frozenset(fact for fact, margin in self.margins.items() if margin < NEAR[fact])


def read(pixels: NDArray[np.uint8]) -> Reading:
    """Returns what is measured of one picture, sRGB uint8 [height, width, 3] of any size.

    Raises ValueError for another shape or dtype, or a picture with a side shorter than 2 pixels.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or min(pixels.shape[:2]) < 2:
        raise ValueError(f"expected uint8 [height, width, 3], at least 2 x 2, got {pixels.dtype} {pixels.shape}")
    return read_batch(working_size(pixels)[None])[0]


def read_batch(pixels: NDArray[np.uint8]) -> list[Reading]:
    """Returns what is measured of each picture of a batch at working size, sRGB uint8 [n, height, width, 3]."""
    readings = []
    for values in measure(pixels).tolist():
        numbers = dict(zip(NUMBERS, values, strict=True))
        readings.append(Reading(numbers, classify(numbers), margins(numbers)))
    return readings


def working_size(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the picture scaled down to `WORKING_AREA` pixels (bicubic, antialiased), or itself if smaller."""
    height, width = pixels.shape[:2]
    scale = math.sqrt(WORKING_AREA / (height * width))
    if scale >= 1.0:
        return pixels
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def measure(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the numbers of a batch of pictures of one size, float32 [n, 10], columns as in `NUMBERS`.

    `pixels` is sRGB uint8 [n, height, width, 3] at working size. L*, a*, b* are CIELAB (CIE 15:2004,
    D65, 2 degrees). lightness: mean L*, 0..100. spread: standard deviation of L*. chroma: mean C*.
    warmth: mean of the projection of (a*, b*) on orange (hue 60 degrees). right, top: mean L* of that
    half less the mean of the other. detail: mean length of the gradient of L*, a pixel. blacks, whites:
    share of the pixels with L* under 15 and over 85, 0..1. level: log2 of the energy of the vertical
    derivative of L* over the horizontal one's, so above 0 where edges run level.
    """
    lab = _lab(pixels)
    lightness, a_star, b_star = lab[..., 0], lab[..., 1], lab[..., 2]
    height, width = lightness.shape[1:]
    down = np.diff(lightness, axis=1)[:, :, :-1]
    across = np.diff(lightness, axis=2)[:, :-1, :]
    energy_down, energy_across = (np.square(step).mean(axis=(1, 2)) + 0.05 for step in (down, across))
    half_w, half_h = width // 2, height // 2
    columns = (
        lightness.mean(axis=(1, 2)),
        lightness.std(axis=(1, 2)),
        np.hypot(a_star, b_star).mean(axis=(1, 2)),
        (0.5 * a_star + math.sqrt(0.75) * b_star).mean(axis=(1, 2)),
        lightness[:, :, width - half_w :].mean(axis=(1, 2)) - lightness[:, :, :half_w].mean(axis=(1, 2)),
        lightness[:, :half_h].mean(axis=(1, 2)) - lightness[:, height - half_h :].mean(axis=(1, 2)),
        np.hypot(down, across).mean(axis=(1, 2)),
        (lightness < BLACK_LSTAR).mean(axis=(1, 2)),
        (lightness > WHITE_LSTAR).mean(axis=(1, 2)),
        np.log2(energy_down / energy_across),
    )
    return np.stack(columns, axis=1).astype(np.float32)


def classify(numbers: Mapping[str, float]) -> dict[str, str | None]:
    """Returns fact -> class, None where the fact does not apply, from the numbers of one picture."""
    right, top = numbers["right"], numbers["top"]
    across = abs(right) >= abs(top)
    side = ("right" if right > 0 else "left") if across else ("top" if top > 0 else "bottom")
    grey = numbers["chroma"] < MONOCHROME_BELOW
    hue = _band(numbers["warmth"], -WARM_ABOVE, WARM_ABOVE, ("cool", "mixed", "warm"))
    return {
        "brightness": _band(numbers["lightness"], DARK_BELOW, BRIGHT_ABOVE, FACTS["brightness"]),
        "contrast": _band(numbers["spread"], SOFT_BELOW, STRONG_ABOVE, FACTS["contrast"]),
        "color": "monochrome" if grey else hue,
        "saturation": None if grey else ("vivid" if numbers["chroma"] > VIVID_ABOVE else "muted"),
        "light": side if max(abs(right), abs(top)) > UNEVEN_ABOVE else "even",
        "detail": _band(numbers["detail"], SMOOTH_BELOW, FINE_ABOVE, FACTS["detail"]),
        "shadows": "deep" if numbers["blacks"] > DEEP_ABOVE else "open",
        "highlights": "brilliant" if numbers["whites"] > BRILLIANT_ABOVE else "quiet",
        "lines": _band(numbers["level"], -DIRECTED_ABOVE, DIRECTED_ABOVE, ("upright", "free", "level")),
    }


def margins(numbers: Mapping[str, float]) -> dict[str, float]:
    """Returns fact -> distance of its number from the nearest border, in the number's unit, 0 or more."""
    right, top = abs(numbers["right"]), abs(numbers["top"])
    larger, smaller = max(right, top), min(right, top)
    to_mono = abs(numbers["chroma"] - MONOCHROME_BELOW)
    to_hue = _nearest(numbers["warmth"], -WARM_ABOVE, WARM_ABOVE)
    grey = numbers["chroma"] < MONOCHROME_BELOW
    return {
        "brightness": _nearest(numbers["lightness"], DARK_BELOW, BRIGHT_ABOVE),
        "contrast": _nearest(numbers["spread"], SOFT_BELOW, STRONG_ABOVE),
        "color": to_mono if grey else min(to_mono, to_hue),
        "saturation": abs(numbers["chroma"] - VIVID_ABOVE),
        "light": min(larger - smaller, larger - UNEVEN_ABOVE) if larger > UNEVEN_ABOVE else UNEVEN_ABOVE - larger,
        "detail": _nearest(numbers["detail"], SMOOTH_BELOW, FINE_ABOVE),
        "shadows": abs(numbers["blacks"] - DEEP_ABOVE),
        "highlights": abs(numbers["whites"] - BRILLIANT_ABOVE),
        "lines": _nearest(numbers["level"], -DIRECTED_ABOVE, DIRECTED_ABOVE),
    }


def _band(value: float, low: float, high: float, names: tuple[str, ...]) -> str:
    return names[0] if value < low else names[2] if value > high else names[1]


def _nearest(value: float, *borders: float) -> float:
    return min(abs(value - border) for border in borders)


_LINEAR: Final = np.array(
    [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.arange(256) / 255.0], dtype=np.float32
)
"""sRGB code -> linear light, 0..1 (IEC 61966-2-1)."""
# Linear sRGB -> XYZ over the D65 white point, so that white is (1, 1, 1).
_TO_XYZ: Final = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    dtype=np.float32,
) / np.array([[0.95047], [1.0], [1.08883]], dtype=np.float32)


def _lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns CIELAB float32 [..., 3] of sRGB uint8 [..., 3]."""
    xyz = _LINEAR[pixels] @ _TO_XYZ.T
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack(
        (116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])), axis=-1
    ).astype(np.float32)
