"""Noise with the spectrum of natural surfaces, the same composition at every size."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.floating[Any]]

_CUBIC_LOSS = 1.35
"""Bicubic interpolation of white noise loses about this factor of its standard deviation."""


def fractal(
    gen: np.random.Generator,
    height: int,
    width: int,
    cells: float = 3.0,
    gain: float = 0.55,
    stretch: float = 1.0,
    finest: float = 1.0,
) -> FloatImage:
    """Sum octaves of smooth noise, coarse to fine.

    Returns float32 [height, width], mean about 0, standard deviation about 1. `cells` is the number of the
    coarsest features over the height; each further octave doubles them and multiplies their amplitude by `gain`
    (0.5 gives the 1/f amplitude spectrum of natural scenes, 0.7 a rough surface). `stretch` > 1 draws features
    out horizontally, < 1 vertically. Octaves end where a feature is smaller than `finest` pixels.
    Coarse octaves are drawn first, so that two sizes share their large forms.
    """
    total = np.zeros((height, width), np.float32)
    power, amplitude, rows = 0.0, 1.0, cells
    across = cells * width / height / stretch
    while True:
        grid = gen.standard_normal((round(rows) + 3, round(across) + 3), dtype=np.float32)
        total += amplitude * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        power += amplitude**2
        rows, across, amplitude = rows * 2, across * 2, amplitude * gain
        if amplitude < 0.02 or (rows > height / finest and across > width / finest):
            break
    return total * np.float32(_CUBIC_LOSS / np.sqrt(power))


def profile(
    gen: np.random.Generator, width: int, cells: float = 3.0, gain: float = 0.5, ridged: bool = False
) -> FloatImage:
    """Draws the outline of a ridge: float32 [width], mean about 0, standard deviation about 1.

    `cells` counts the coarsest features over the width; `ridged` folds the noise, so that summits are sharp.
    """
    positions = np.linspace(0.0, 1.0, width)
    total = np.zeros(width)
    amplitude, power, count = 1.0, 0.0, cells
    for _ in range(9):  # the same number at every width, so that sizes share their outlines
        knots = gen.standard_normal(round(count) + 3)
        place = positions * count + 1.0
        layer = np.interp(place, np.arange(len(knots)), knots)
        if not ridged:  # rounded: blend the straight pieces with a smooth step
            low = np.floor(place).astype(int)
            part = place - low
            part = part * part * (3 - 2 * part)
            layer = knots[low] * (1 - part) + knots[np.minimum(low + 1, len(knots) - 1)] * part
        total += amplitude * (0.8 - np.abs(layer) if ridged else layer)
        power += amplitude**2
        count, amplitude = count * 2.0, amplitude * gain
    line: FloatImage = (total * 1.35 / np.sqrt(power)).astype(np.float32)
    return line
