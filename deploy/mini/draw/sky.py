"""Skies: gradient, sun or moon, clouds, stars."""

import cv2
import numpy as np

from deploy.mini.draw.canvas import Canvas, smoothstep
from deploy.mini.draw.lighting import Light


def sky(canvas: Canvas, light: Light, horizon: float = 1.0) -> None:
    """Fill the frame with sky; `horizon` (0 top..1 bottom) is where its colour is palest."""
    height = np.clip(canvas.y / max(horizon, 0.05), 0, 1)[..., None] ** 1.3
    canvas.light[:] = light.zenith * (1 - height) + light.horizon * height
    canvas.light *= 1 + 0.015 * canvas.noise(2, 0.5)[..., None]
    if light.time == "night":
        stars(canvas, horizon)


def stars(canvas: Canvas, horizon: float) -> None:
    """Scatter stars above the horizon, as sharp points of different brightness."""
    count = int(canvas.choose.integers(20, 140))
    for x, y, glow in zip(
        canvas.choose.random(count) * canvas.width,
        canvas.choose.random(count) * canvas.height * horizon,
        canvas.choose.random(count) ** 3,
        strict=True,
    ):
        canvas.light[int(y), int(x)] += np.float32(0.15 + 0.8 * glow)


def sun_or_moon(canvas: Canvas, light: Light, x: float, y: float, radius: float, moon: bool) -> None:
    """Draw the disc at (`x`, `y`) of `radius` frame heights, with its glow; a moon has seas and may be a crescent."""
    distance = np.sqrt((canvas.x - x) ** 2 + (canvas.y - y) ** 2)
    glow = np.exp(-distance / (radius * (2.0 if moon else 4.0)))[..., None]
    if not moon:
        canvas.light += glow * light.sun * 0.9 + np.exp(-((distance / radius / 9) ** 2))[..., None] * light.sun * 0.12
        canvas.paint(canvas.disc(x, y, radius), np.float32([3.0, 2.7, 2.2]))
        return
    face = canvas.disc(x, y, radius)
    bright = np.float32([0.95, 0.93, 0.86]) * (1.0 if light.time in ("dusk", "night") else 0.9)
    seas = 1 - 0.35 * smoothstep(0.2, 1.0, canvas.noise(6, 0.6))
    if light.time in ("dusk", "night"):
        canvas.light += glow * 0.12 * bright
    if canvas.choose.random() < 0.3:  # crescent
        face = face * (1 - canvas.disc(x + radius * 0.55, y - radius * 0.2, radius * 0.95))
    canvas.paint(face, (bright * seas[..., None]).astype(np.float32))


def clouds(canvas: Canvas, light: Light, horizon: float, cover: float) -> None:
    """Lay clouds over the sky down to `horizon`; `cover` 0..1 is about the part of the sky they fill."""
    kind = canvas.choose.integers(3)
    stretch, cells = ((2.2, 3.0), (5.0, 4.0), (1.3, 2.0))[kind]
    body = canvas.noise(cells, 0.56, stretch)
    fade = smoothstep(0.0, 0.3, (horizon - canvas.y) + 0.12)
    density = smoothstep(0.75 - 2.0 * cover, 1.75 - 2.0 * cover, body) * fade
    offset = np.float32([[1, 0, light.toward[0] * canvas.height * 0.03], [0, 1, -0.03 * canvas.height]])
    behind = cv2.warpAffine(body, offset, (canvas.width, canvas.height), borderMode=cv2.BORDER_REFLECT)
    lit = np.clip(0.55 + 0.45 * (body - behind), 0.0, 1.0)[..., None]
    white = 0.62 * light.sun + 0.5 * light.horizon
    shade = 0.55 * light.zenith + 0.25 * light.horizon + 0.12 * light.sun.mean()
    canvas.paint((density * 0.95).astype(np.float32), (shade + (white - shade) * lit).astype(np.float32))
