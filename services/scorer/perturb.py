"""Changes of a photograph with a known effect, for the evaluation of the scores.

Every function takes and returns sRGB pixels, uint8 [H, W, 3]. Lengths in pixels are meant at a long side of 512 and
scale with the picture, so a change looks the same in a small and a large file. Nothing here is random but
by the generator that is passed in.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

Pixels = NDArray[np.uint8]

_LINEAR = np.where(
    np.arange(256) / 255 <= 0.04045,
    np.arange(256) / 255 / 12.92,
    ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4,
).astype(np.float32)


def _code(linear: NDArray[np.float32]) -> Pixels:
    linear = np.clip(linear, 0, 1)
    coded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(coded * 255), np.uint8)


def _scale(pixels: Pixels) -> float:
    return float(max(pixels.shape[0], pixels.shape[1]) / 512)


def gaussian_blur(pixels: Pixels, sigma: float) -> Pixels:
    """Blurs by a Gaussian of `sigma` px."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma * _scale(pixels))))


def motion_blur(pixels: Pixels, length: float, degrees: float) -> Pixels:
    """Averages along a straight path of `length` px."""
    steps = max(2, round(length * _scale(pixels)))
    dx, dy = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    total = np.zeros(pixels.shape, np.float32)
    for i in range(steps):
        # Whole steps: half of one would be rounded away, and two steps be none.
        t = i - (steps - 1) // 2
        total += shift(pixels, round(t * dx), round(t * dy))
    return np.asarray(np.round(total / steps), np.uint8)


def shift(pixels: Pixels, right: int, down: int) -> Pixels:
    """Moves the picture by whole pixels, repeating the border."""
    rows = np.clip(np.arange(pixels.shape[0]) - down, 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(pixels.shape[1]) - right, 0, pixels.shape[1] - 1)
    return pixels[rows][:, columns]


def noise(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Adds white noise of `sigma` of 255 at each pixel of a 512 px version (more in a larger file)."""
    amount = sigma * _scale(pixels)
    return np.asarray(np.clip(np.round(pixels + rng.normal(0, amount, pixels.shape)), 0, 255), np.uint8)


def resize(pixels: Pixels, long_side: int) -> Pixels:
    """Reduces or enlarges to a long side of `long_side` px."""
    factor = long_side / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def expose(pixels: Pixels, stops: float) -> Pixels:
    """Multiplies linear light by 2 to the power of `stops`; what exceeds white is lost."""
    return _code(_LINEAR[pixels] * np.float32(2.0**stops))


def crush(pixels: Pixels, factor: float) -> Pixels:
    """Draws all tones to their mean by `factor` (1 leaves them)."""
    mean = pixels.mean(dtype=np.float64)
    return np.asarray(np.clip(np.round((pixels - mean) * factor + mean), 0, 255), np.uint8)


def _turn_hue(pixels: Pixels, degrees: NDArray[np.float32]) -> Pixels:
    """Turns the hue of each pixel at constant luma (rotation of Cb, Cr)."""
    ycc = np.asarray(Image.fromarray(pixels).convert("YCbCr"), np.float32)
    cb, cr = ycc[..., 1] - 128, ycc[..., 2] - 128
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = np.stack([ycc[..., 0], c * cb - s * cr + 128, s * cb + c * cr + 128], -1)
    coded = np.asarray(np.clip(np.round(turned), 0, 255), np.uint8)
    return _from_ycc(coded)


def _from_ycc(coded: Pixels) -> Pixels:
    y, cb, cr = (coded[..., i].astype(np.float32) for i in range(3))
    rgb = np.stack(
        [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)], -1
    )
    return np.asarray(np.clip(np.round(rgb), 0, 255), np.uint8)


def scramble_hue(pixels: Pixels, block: float, rng: np.random.Generator) -> Pixels:
    """Turns the hue of each block of `block` px (0: of each pixel) by an angle of its own."""
    rows, columns = pixels.shape[:2]
    size = max(1, round(block * _scale(pixels)))
    angles = rng.uniform(0, 360, (-(-rows // size), -(-columns // size))).astype(np.float32)
    spread = np.repeat(np.repeat(angles, size, 0), size, 1)[:rows, :columns]
    return _turn_hue(pixels, spread)


def cast(pixels: Pixels, gains: tuple[float, float, float]) -> Pixels:
    """Multiplies red, green and blue in linear light, at constant luminance of white."""
    scale = np.array(gains, np.float32)
    scale /= 0.2126 * scale[0] + 0.7152 * scale[1] + 0.0722 * scale[2]
    return _code(_LINEAR[pixels] * scale)


def saturate(pixels: Pixels, factor: float) -> Pixels:
    """Multiplies the distance of each pixel from grey of its luma; what leaves the gamut is cut."""
    ycc = np.asarray(Image.fromarray(pixels).convert("YCbCr"), np.float32)
    y = ycc[..., :1]
    return np.asarray(np.clip(np.round(y + (pixels - y) * factor), 0, 255), np.uint8)


def flatten_light(pixels: Pixels, share: float) -> Pixels:
    """Takes `share` of the large-scale contrast away: the luma blurred by an eighth of the frame, less its mean."""
    ycc = np.asarray(Image.fromarray(pixels).convert("YCbCr"), np.float32)
    large = _soft(ycc[..., 0], 48 * _scale(pixels))
    flat = pixels - share * (large - large.mean())[..., None]
    return np.asarray(np.clip(np.round(flat), 0, 255), np.uint8)


def rotate(pixels: Pixels, degrees: float) -> Pixels:
    """Turns by `degrees` and crops to the largest upright frame of the same format that is fully covered."""
    rows, columns = pixels.shape[:2]
    turned = Image.fromarray(pixels).rotate(degrees, Image.Resampling.BICUBIC)
    return _centre(np.asarray(turned), kept_by_rotation(rows, columns, degrees))


def kept_by_rotation(rows: int, columns: int, degrees: float) -> float:
    """Returns the side of the largest frame of the same format inside a turned one, as a share."""
    a = np.radians(abs(degrees))
    return float(
        min(
            columns / (columns * np.cos(a) + rows * np.sin(a)),
            rows / (columns * np.sin(a) + rows * np.cos(a)),
        )
    )


def _centre(pixels: Pixels, share: float) -> Pixels:
    rows, columns = pixels.shape[:2]
    r, c = int((1 - share) / 2 * rows), int((1 - share) / 2 * columns)
    return pixels[r : rows - r, c : columns - c]


def straight(pixels: Pixels, degrees: float) -> Pixels:
    """Crops as `rotate` would without turning: what rotation is fairly compared with."""
    return _centre(pixels, kept_by_rotation(pixels.shape[0], pixels.shape[1], degrees))


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    """Compresses and decodes again."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def flip(pixels: Pixels) -> Pixels:
    """Mirrors left and right."""
    return pixels[:, ::-1]


def mat(pixels: Pixels, color: tuple[int, int, int] = (255, 255, 255), share: float = 0.1) -> Pixels:
    """Puts a plain border around it, `share` of the shorter side wide."""
    width = max(1, round(share * min(pixels.shape[:2])))
    return np.asarray(ImageOps.expand(Image.fromarray(pixels), width, color))


def clutter_behind(pixels: Pixels, mask: NDArray[np.bool_], rng: np.random.Generator) -> Pixels:
    """Replaces what is outside of the mask by patches of the picture's own colours at all scales."""
    rows, columns = pixels.shape[:2]
    scene = np.zeros(pixels.shape, np.float32)
    for size in (48, 24, 12, 6):
        step = max(1, round(size * _scale(pixels)))
        n = (-(-rows // step), -(-columns // step))
        sampled = pixels[rng.integers(0, rows, n), rng.integers(0, columns, n)].astype(np.float32)
        patches = np.repeat(np.repeat(sampled, step, 0), step, 1)[:rows, :columns]
        used = np.repeat(np.repeat(rng.random(n) < 0.6, step, 0), step, 1)[:rows, :columns]
        scene = np.where(used[..., None], patches, scene) if size != 48 else patches
    return _over(pixels, np.asarray(scene, np.uint8), mask)


def blur_behind(pixels: Pixels, mask: NDArray[np.bool_], sigma: float) -> Pixels:
    """Blurs what is outside of the mask by a Gaussian of `sigma` px, without smearing the subject into it."""
    inside = mask[..., None].astype(np.float32)
    outside = 1 - inside
    weight = _soft(outside[..., 0], sigma * _scale(pixels))[..., None]
    colour = np.stack(
        [_soft(pixels[..., i] * outside[..., 0], sigma * _scale(pixels)) for i in range(3)], -1
    ) / np.maximum(weight, 1e-3)
    return _over(pixels, np.asarray(np.clip(np.round(colour), 0, 255), np.uint8), mask)


def _soft(plane: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    # Pillow blurs no float picture: three box means by running sums come close to a Gaussian.
    radius = max(1, round(sigma * 0.98))
    values = np.asarray(plane, np.float64)
    for axis in (0, 1):
        for _ in range(3):
            padded = np.pad(values, [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
            total = padded.cumsum(axis)
            width = 2 * radius + 1
            values = ((total[width:] - total[:-width]) if axis == 0 else (total[:, width:] - total[:, :-width])) / width
    return np.asarray(values, np.float32)


def _over(pixels: Pixels, background: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    edge = _soft(mask.astype(np.float32), max(1.0, _scale(pixels)))[..., None]
    return np.asarray(np.round(pixels * edge + background * (1 - edge)), np.uint8)


def cut_subject(pixels: Pixels, mask: NDArray[np.bool_], side: str, share: float = 0.4) -> Pixels:
    """Crops so that `side` ("left", "right", "top", "bottom") of the frame cuts `share` of the mask's extent off."""
    axis = 1 if side in ("left", "right") else 0
    used = np.flatnonzero(mask.any(axis=1 - axis))
    first, last = int(used[0]), int(used[-1])
    if side in ("left", "top"):
        at = first + int((last - first) * share)
        return pixels[:, at:] if axis else pixels[at:]
    at = last - int((last - first) * share)
    return pixels[:, :at] if axis else pixels[:at]


Change = Callable[[Pixels, np.random.Generator], Pixels]

CASTS: Mapping[str, tuple[float, float, float]] = {
    "warm": (1.9, 1.0, 0.35),
    "cool": (0.5, 1.0, 2.2),
    "green": (0.6, 1.5, 0.6),
    "magenta": (1.5, 0.6, 1.5),
}
"""Gains of red, green and blue in linear light of the strong casts."""


def _steady(function: Callable[..., Pixels], *arguments: object) -> Change:
    """Returns a change that needs no generator."""
    return lambda pixels, _: function(pixels, *arguments)


def _random(function: Callable[..., Pixels], *arguments: object) -> Change:
    """Returns a change that draws from the generator."""
    return lambda pixels, rng: function(pixels, *arguments, rng)


LOWERING: Mapping[str, Mapping[str, Mapping[str, Change]]] = {
    "focus_sharpness": {
        "gaussian blur": {f"{sigma} px": _steady(gaussian_blur, sigma) for sigma in (1.0, 2.0, 4.0)},
        "motion blur": {
            f"{length} px at {angle} degrees": _steady(motion_blur, length, angle)
            for length, angle in ((5, 0), (9, 60), (15, 90))
        },
        "noise": {f"{sigma} of 255": _random(noise, sigma) for sigma in (8.0, 16.0, 32.0)},
        "downscaling": {f"{long_side} px": _steady(resize, long_side) for long_side in (320, 256, 128)},
    },
    "lighting": {
        "under-exposure": {f"{stops} stops": _steady(expose, -stops) for stops in (1.0, 2.0, 3.0)},
        "over-exposure": {f"{stops} stops": _steady(expose, stops) for stops in (2.0, 3.0)},
        "contrast crush": {f"to {factor}": _steady(crush, factor) for factor in (0.6, 0.4, 0.25)},
    },
    "color_harmony": {
        "hue scramble by block": {f"{block} px": _random(scramble_hue, block) for block in (16, 32)},
        "hue scramble by pixel": {"each": _random(scramble_hue, 0)},
        "colour cast": {name: _steady(cast, gains) for name, gains in CASTS.items()},
        "oversaturation": {f"x{factor}": _steady(saturate, factor) for factor in (2.0, 3.0)},
    },
    "emotional_impact": {
        "large-scale contrast removed": {f"{share:.0%}": _steady(flatten_light, share) for share in (0.5, 0.9)},
        "desaturation": {f"to {factor:.0%}": _steady(saturate, factor) for factor in (0.7, 0.5)},
    },
}
"""Dimension -> change -> level: what must lower a dimension of any photograph (COLORED changes: of a colour one)."""

COLORED = frozenset({"hue scramble by block", "hue scramble by pixel", "colour cast", "oversaturation", "desaturation"})
"""Changes that mean something for a colour photograph only."""
