"""Pictures without content that have the statistics of natural images."""

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.mini.draw.canvas import Canvas


def _colour_noise(canvas: Canvas) -> NDArray[np.float32]:
    gen = canvas.choose
    stretch = float(np.exp(gen.normal(0, 0.6)))
    cells, gain = gen.uniform(1.0, 6.0), gen.uniform(0.4, 0.75)
    bands = np.stack([canvas.noise(cells, gain, stretch) for _ in range(3)], 2)
    mix = gen.normal(0, 1, (3, 3)) * np.array([1.0, 0.35, 0.15])
    return (gen.uniform(0.25, 0.75, 3) + 0.16 * bands @ mix.T).astype(np.float32)


def texture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Draw a picture with natural image statistics: uint8 [height, width, 3] sRGB, the same from the same seed."""
    canvas = Canvas(seed, height, width)
    gen = canvas.choose
    picture = _colour_noise(canvas)
    fill = _colour_noise(canvas)
    for radius in np.sort(0.02 / np.maximum(gen.power(2.0, int(gen.integers(20, 160))), 0.03))[::-1]:
        x, y = gen.uniform(0, width), gen.uniform(0, height)
        corners = int(gen.integers(3, 9))
        angles = np.sort(gen.uniform(0, 2 * np.pi, corners))
        reach = radius * height * gen.uniform(0.6, 1.6, corners)
        points = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], 1)
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        tone = (fill * gen.uniform(0.4, 1.4) + gen.normal(0, 0.15, 3)).astype(np.float32)
        picture += (mask[..., None] / np.float32(255)) * (tone - picture)
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
