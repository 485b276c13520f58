"""Skies: gradient, sun or moon, clouds, stars."""

import cv2
import numpy as np

from deploy.mini.draw.canvas import Canvas, relief, rgb, smoothstep, soften
from deploy.mini.draw.lighting import Light


def sky(canvas: Canvas, light: Light, horizon: float = 1.0) -> None:
    """Fills the frame with sky; `horizon` (0 top..1 bottom) is where its colour is palest."""
    height = np.clip(canvas.y / max(horizon, 0.05), 0, 1)[..., None] ** 1.3
    canvas.light[:] = light.zenith * (1 - height) + light.horizon * height
    canvas.light *= 1 + 0.015 * canvas.noise(2, 0.5)[..., None]
    if light.time == "night":
        stars(canvas, horizon)


def stars(canvas: Canvas, horizon: float) -> None:
    """Scatters stars above the horizon, as sharp points of different brightness."""
    count = int(canvas.choose.integers(20, 140))
    for x, y, glow in zip(
        canvas.choose.random(count) * canvas.width,
        canvas.choose.random(count) * canvas.height * horizon,
        canvas.choose.random(count) ** 3,
        strict=True,
    ):
        size = max(1, canvas.height // 300)
        canvas.light[int(y) : int(y) + size, int(x) : int(x) + size] += np.float32(0.15 + 0.8 * glow)


def sun_or_moon(canvas: Canvas, light: Light, x: float, y: float, radius: float, moon: bool) -> None:
    """Draws the disc at (`x`, `y`) of `radius` frame heights, with its glow; a moon has seas and may be a crescent."""
    distance = np.sqrt((canvas.x - x) ** 2 + (canvas.y - y) ** 2)
    glow = np.exp(-distance / (radius * (2.0 if moon else 4.0)))[..., None]
    if not moon:
        canvas.light += glow * light.sun * 0.9 + np.exp(-((distance / radius / 9) ** 2))[..., None] * light.sun * 0.12
        canvas.paint(canvas.disc(x, y, radius), rgb(3.0, 2.7, 2.2))
        return
    face = canvas.disc(x, y, radius)
    bright = rgb(0.95, 0.93, 0.86) * (1.0 if light.time in ("dusk", "night") else 0.9)
    seas = 1 - 0.35 * smoothstep(0.2, 1.0, canvas.noise(6, 0.6))
    if light.time in ("dusk", "night"):
        canvas.light += glow * 0.12 * bright
    if canvas.choose.random() < 0.3:  # crescent
        face = face * (1 - canvas.disc(x + radius * 0.55, y - radius * 0.2, radius * 0.95))
    canvas.paint(face, (bright * seas[..., None]).astype(np.float32))


def clouds(canvas: Canvas, light: Light, horizon: float, cover: float) -> None:
    """Lays clouds over the sky down to `horizon`; `cover` 0..1 is about the part of the sky they fill."""
    kind = canvas.choose.integers(3)
    stretch, cells = ((2.2, 3.0), (5.0, 4.0), (1.3, 2.0))[kind]
    body = canvas.noise(cells, 0.56, stretch)
    fade = smoothstep(0.0, 0.3, (horizon - canvas.y) + 0.12)
    density = smoothstep(0.75 - 2.0 * cover, 1.75 - 2.0 * cover, body) * fade
    offset = np.array([[1, 0, light.toward[0] * canvas.height * 0.03], [0, 1, -0.03 * canvas.height]], np.float32)
    behind = cv2.warpAffine(body, offset, (canvas.width, canvas.height), borderMode=cv2.BORDER_REFLECT)
    lit = np.clip(0.55 + 0.45 * (body - behind), 0.0, 1.0)[..., None]
    white = 0.62 * light.sun + 0.5 * light.horizon
    shade = 0.55 * light.zenith + 0.25 * light.horizon + 0.12 * light.sun.mean()
    canvas.paint((density * 0.95).astype(np.float32), (shade + (white - shade) * lit).astype(np.float32))


def cumulus(canvas: Canvas, light: Light, x: float, base: float, size: float) -> None:
    """Piles up one great cloud about `x` with its flat foot at `base`, about `size` frame heights wide."""
    gen = canvas.choose
    height = np.zeros((canvas.height, canvas.width), np.float32)
    warp = 0.10 * size * canvas.noise(3, 0.6)
    for _ in range(26):
        across = gen.normal(0, 0.30)
        radius = size * gen.uniform(0.10, 0.24) * (1.05 - min(abs(across), 0.8))
        lift = gen.uniform(0, 0.75) ** 1.3 * size * max(0.55 - across**2, 0.05)
        distance = ((canvas.x - x - across * size) ** 2 + (canvas.y - base + lift + 0.4 * radius) ** 2) / radius**2
        height = np.maximum(height, radius * np.sqrt(np.clip(1 - distance + warp / size * 2.2, 0, 1)))
    body = height / size + 0.018 * canvas.noise(7, 0.62) * (height > 0)
    mask = smoothstep(0.015, 0.075, body) * smoothstep(base + 0.04, base - 0.02, canvas.y + 0.3 * warp)
    cosine = relief(soften(body * size, 0.006 * canvas.height + 0.3), light.toward, 1.1)
    low = smoothstep(base - 0.45 * size, base, canvas.y)
    lit = np.clip(0.25 + 0.85 * cosine - 0.45 * low, 0.05, 1.0)[..., None]
    white = 0.75 * light.sun + 0.55 * light.horizon
    shade = 0.35 * light.zenith + 0.25 * light.horizon + 0.08 * light.sun.mean()
    canvas.paint(mask, (shade + (white - shade) * lit).astype(np.float32))


def cloud_floor(canvas: Canvas, light: Light, horizon: float) -> None:
    """Spreads a floor of small white clouds below the viewer, receding to `horizon` (0 top..1 bottom)."""
    field = canvas.ground(horizon, canvas.choose.uniform(7, 12), 0.42, across=1.6)
    near = smoothstep(horizon, 1.0, canvas.y)
    blue = 0.75 * light.zenith + 0.15 * light.horizon
    canvas.paint(canvas.below(np.full(canvas.width, horizon, np.float32)), blue.astype(np.float32) + 0 * canvas.light)
    density = smoothstep(-0.25, 0.15, field) * canvas.below(np.full(canvas.width, horizon, np.float32))
    cosine = relief(field, light.toward, 0.03)
    white = 0.62 * light.sun * (0.4 + 0.6 * cosine[..., None]) + 0.45 * light.horizon
    air = (0.75 * (1 - near) ** 3)[..., None]
    canvas.paint(density, (white * (1 - air) + light.horizon * air).astype(np.float32))
