"""A cow's skull and a spiral shell, as large simple forms."""

import numpy as np

from deploy.mini.draw.canvas import Canvas, Colour, inflate, relief, smoothstep, soften
from deploy.mini.draw.lighting import Light
from deploy.mini.draw.noise import FloatImage

_HALF = np.array(
    [(0, -0.50), (0.12, -0.51), (0.20, -0.46), (0.27, -0.36), (0.285, -0.26), (0.23, -0.17), (0.175, -0.02),
     (0.14, 0.18), (0.145, 0.34), (0.125, 0.46), (0.06, 0.515), (0, 0.52)]
)  # fmt: skip
_HORN = np.array(
    [(0.17, -0.49), (0.34, -0.53), (0.50, -0.60), (0.60, -0.72), (0.64, -0.88), (0.70, -0.70), (0.64, -0.54),
     (0.50, -0.44), (0.34, -0.40), (0.21, -0.40)]
)  # fmt: skip


def _round(points: FloatImage, turns: int = 3) -> FloatImage:
    """Cuts the corners of a closed outline (Chaikin 1974), `turns` times."""
    for _ in range(turns):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
    return points


def skull(canvas: Canvas, light: Light, x: float, y: float, size: float, bone: Colour) -> None:
    """Paints a cow's skull seen from the front, `size` frame heights tall, and its soft shadow behind."""
    place = np.array([x, y])
    mirror = np.array([-1, 1])
    face = _round(np.concatenate([_HALF, _HALF[::-1] * mirror]))
    horn = _round(_HORN)
    outlines = [place + size * part for part in (face, horn, horn * mirror)]
    mask = canvas.shape(*outlines)
    shift = np.array([-light.toward[0] * 0.07, 0.06]) * size
    shadow = canvas.shape(*(part + shift for part in outlines))
    canvas.light *= 1 - 0.5 * _soft(canvas, shadow, 0.03)[..., None]
    u, v = (canvas.x - x) / size, (canvas.y - y) / size
    height = inflate(mask, 0.11 * size) * 0.16 * size
    side = np.abs(u)
    holes = np.maximum(
        smoothstep(1.15, 0.75, ((side - 0.195) / 0.062) ** 2 + ((v + 0.27) / 0.078) ** 2),
        smoothstep(1.2, 0.6, ((side - 0.05 - 0.03 * (v - 0.3)) / 0.032) ** 2 + ((v - 0.33) / 0.12) ** 2),
    )
    brow = 0.03 * size * np.exp(-(((side - 0.2) / 0.09) ** 2) - ((v + 0.36) / 0.05) ** 2)
    crest = 0.02 * size * np.exp(-((side / 0.05) ** 2)) * smoothstep(-0.35, 0.2, v)
    seam = smoothstep(0.012, 0.0, np.abs(u + 0.01 * canvas.noise(4, 0.6))) * smoothstep(0.35, 0.2, v)
    pits = 0.0012 * size * canvas.noise(14, 0.7)
    cosine = relief((height + brow + crest - 0.05 * size * holes + pits).astype(np.float32), light.toward, 2.2)
    horns = smoothstep(0.30, 0.42, side)
    paint = bone * (1 - 0.55 * horns[..., None]) * (1 + 0.06 * canvas.noise(12, 0.7)[..., None])
    paint = paint * (1 - 0.3 * seam[..., None]) * (1 - 0.93 * holes[..., None])
    canvas.paint(mask, light.shine(np.clip(paint, 0.003, 1).astype(np.float32), cosine))


def _soft(canvas: Canvas, mask: FloatImage, radius: float) -> FloatImage:

    return soften(mask, max(0.5, radius * canvas.height))


def shell(canvas: Canvas, light: Light, x: float, y: float, size: float, albedo: Colour, stripe: Colour) -> None:
    """Paints a nautilus of radius `size` frame heights: a logarithmic spiral, banded, round in the light."""
    gen = canvas.choose
    growth = gen.uniform(0.14, 0.19)
    start = gen.uniform(-0.6, 0.6)
    sign = 1.0 if gen.random() < 0.5 else -1.0
    dx, dy = sign * (canvas.x - x), canvas.y - y
    radius = np.sqrt(dx**2 + dy**2) + 1e-6
    angle = np.arctan2(dy, dx) - start
    turns = (np.log(radius / size) / growth - angle) / (2 * np.pi)
    whorl = np.ceil(turns)
    total = angle + 2 * np.pi * whorl  # angle of the outer wall, 0 at the mouth, negative inwards
    across = whorl - turns  # 0 at the outer wall, 1 at the inner
    mask = smoothstep(0.012, -0.012, total - np.pi) * smoothstep(0.0, 0.02, across + 0 * radius)
    outer = smoothstep(1.0, 0.985, radius / (size * np.exp(growth * np.clip(total, None, np.pi))))
    mask = np.maximum(mask * outer, 0).astype(np.float32)
    shadow = np.roll(mask, (int(0.05 * canvas.height), int(-light.toward[0] * 0.06 * canvas.height)), (0, 1))
    canvas.light *= 1 - 0.5 * _soft(canvas, shadow, 0.03)[..., None]
    tube = np.sqrt(np.clip(across * (1 - across), 0, 1)) * radius * 0.9
    ribs = 0.004 * np.cos(total * gen.integers(10, 26)) * radius / size
    cosine = relief(_soft(canvas, (tube + ribs).astype(np.float32), 0.003), light.toward, 1.6)
    bands = smoothstep(0.1, 0.5, np.sin(total * 6 + 1.5 * across + 0.5 * canvas.noise(3, 0.5)))
    bands = bands * smoothstep(-0.2, -1.5, total - np.pi)  # the mouth is plain
    paint = albedo * (1 - bands[..., None]) + stripe * bands[..., None]
    paint = paint * (1 + 0.05 * canvas.noise(20, 0.75)[..., None])
    shine = (cosine**14 * 0.35)[..., None] * light.sun
    canvas.paint(mask, light.shine(np.clip(paint, 0.01, 1).astype(np.float32), cosine) + shine)
