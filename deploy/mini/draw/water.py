"""Water: a lake that mirrors what stands above it, and falls."""

import cv2
import numpy as np

from deploy.mini.draw.canvas import Canvas, smoothstep, soften
from deploy.mini.draw.lighting import Light


def lake(canvas: Canvas, light: Light, shore: float, calm: float) -> None:
    """Mirror the picture below `shore` (0 top..1 bottom); `calm` 1 is a mirror, 0 a rough surface."""
    start = round(shore * canvas.height)
    depth = np.clip((canvas.y - shore) / max(1 - shore, 0.05), 0, 1)
    wave = canvas.noise(26, 0.6, 7.0)
    rough = (1 - calm) * (0.2 + depth) * 0.05 + 0.002
    rows = 2 * start - np.arange(canvas.height, dtype=np.float32)[:, None] + wave * rough * canvas.height
    columns = np.arange(canvas.width, dtype=np.float32)[None, :] + wave * rough * canvas.height * 0.4
    rows = np.clip(np.broadcast_to(rows, wave.shape), 0, max(start - 1, 0)).astype(np.float32)
    mirror = cv2.remap(
        canvas.light,
        np.broadcast_to(columns, wave.shape).astype(np.float32),
        rows,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    mirror = soften(np.asarray(mirror), max(0.5, canvas.height * 0.004 * (2 - calm)))
    clear = (0.86 - 0.36 * depth)[..., None]
    deep = 0.30 * light.zenith + 0.02
    glint = smoothstep(1.1, 2.2, wave)[..., None] * (1 - calm) * 0.35 * light.horizon
    water = mirror * clear + deep * (1 - clear) + glint
    canvas.paint(canvas.below(np.full(canvas.width, shore, np.float32)), water.astype(np.float32))
