"""Pictures for the scorer's tests: drawn ones, and the photographs of skimage.data, which nothing was fitted on."""

from __future__ import annotations

from functools import cache

import numpy as np
import skimage.data
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

COLOURFUL = ("astronaut", "chelsea", "coffee", "rocket")
"""The everyday colour photographs of skimage.data: no telescope, no microscope."""


@cache
def photograph(name: str) -> Pixels:
    """Returns a photograph of skimage.data, uint8 [H, W, 3]; do not write to it."""
    pixels = np.asarray(getattr(skimage.data, name)())
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    pixels = np.ascontiguousarray(pixels[..., :3], dtype=np.uint8)
    pixels.flags.writeable = False
    return pixels


def disc(
    x: float, y: float, radius: float = 0.12, size: tuple[int, int] = (384, 512), grey: int = 90, light: int = 210
) -> Pixels:
    """Returns a light disc on a plain ground; centre in shares of width and height, radius in shares of the height."""
    rows, columns = size
    yy, xx = np.mgrid[:rows, :columns]
    inside = np.hypot(xx - x * columns, yy - y * rows) < radius * rows
    return np.repeat(np.where(inside, light, grey).astype(np.uint8)[..., None], 3, axis=-1)


def solid(rgb: tuple[int, int, int], size: tuple[int, int] = (300, 400)) -> Pixels:
    """Returns a picture (rows, columns) of one colour."""
    return np.full((*size, 3), rgb, np.uint8)


def noise(size: tuple[int, int]) -> Pixels:
    """Returns a picture (rows, columns) in which no pixel has to do with another."""
    return np.random.default_rng(5).integers(0, 256, (*size, 3), dtype=np.uint8)


def two_colours() -> Pixels:
    """Returns a picture that is red on its left and blue on its right."""
    pixels = solid((200, 30, 30))
    pixels[:, 200:] = (20, 40, 180)
    return pixels


def grey_photograph() -> Pixels:
    """Returns a photograph without its colours."""
    return np.repeat(photograph("chelsea").mean(-1, keepdims=True).astype(np.uint8), 3, -1)


def sepia_photograph() -> Pixels:
    """Returns the same photograph toned brown."""
    return np.asarray(np.clip(grey_photograph() * np.array([1.07, 0.85, 0.62]), 0, 255), np.uint8)
