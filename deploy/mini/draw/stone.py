"""Stone and what lies on it: boulders, pebbles, a cliff with a waterfall."""

import cv2
import numpy as np

from deploy.mini.draw.canvas import Canvas, Colour, colour, inflate, relief, smoothstep, soften
from deploy.mini.draw.lighting import Light
from deploy.mini.draw.noise import FloatImage


def outline(canvas: Canvas, x: float, y: float, wide: float, high: float) -> FloatImage:
    """Outline a weathered boulder about (`x`, `y`), half axes `wide` and `high` in frame heights: [N, 2]."""
    gen = canvas.choose
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    reach = 1 + sum(gen.normal(0, 0.10 / k) * np.cos(k * turn + gen.uniform(0, 6.3)) for k in range(2, 9))
    return np.stack([x + wide * reach * np.cos(turn), y + high * reach * np.sin(turn)], 1)


def boulder(canvas: Canvas, light: Light, x: float, y: float, size: float, albedo: Colour) -> None:
    """Paints one boulder and its shadow on the ground; `size` is its half width in frame heights."""
    high = size * canvas.choose.uniform(0.55, 0.85)
    edge = outline(canvas, x, y, size, high)
    mask = canvas.shape(edge)
    fall = edge * [1.0, 0.25] + [-light.toward[0] * size * 0.8, 0.75 * y + high * 0.80]
    shadow = soften(canvas.shape(fall), max(0.5, 0.02 * canvas.height))
    canvas.light *= 1 - 0.7 * shadow[..., None]
    stone(canvas, light, mask, size * 0.8, albedo)


def stone(canvas: Canvas, light: Light, mask: FloatImage, softness: float, albedo: Colour) -> None:
    """Paints stone in a silhouette, rounded over `softness` frame heights, cracked and grained."""
    grain = canvas.noise(14, 0.75)
    cracks = smoothstep(0.10, 0.0, np.abs(canvas.noise(2.5, 0.6)))
    cosine = relief(inflate(mask, softness) * 3.0 * softness + 0.012 * grain, light.toward, 1.0)
    paint = albedo * ((1 + 0.18 * grain) * (1 - 0.35 * cracks))[..., None]
    canvas.paint(mask, light.shine(np.clip(paint, 0.01, 1).astype(np.float32), cosine))


def pebbles(canvas: Canvas, light: Light, line: float) -> None:
    """Covers the ground from `line` (0 top..1 bottom) down with pebbles that grow towards the viewer."""
    gen = canvas.choose
    base = colour(("8a8680", "9a8a78", "6f7680")[int(gen.integers(3))])
    tints = np.clip(gen.normal(0.9, 0.3, (4096, 1)) + gen.normal(0, 0.06, (4096, 3)), 0.3, 1.7).astype(np.float32)
    number = np.zeros(canvas.light.shape[:2], np.int32)
    rows = line + (1.04 - line) * np.linspace(0.0, 1.0, 34) ** 1.7
    count = 0
    for row, step in zip(rows, np.gradient(rows), strict=True):  # rows of pebbles, far to near
        size = max(0.62 * float(step), 0.004)
        places = np.arange(0, canvas.aspect + size, 1.5 * size)
        places = places + gen.uniform(-0.4, 0.4, len(places)) * size
        for place in places:
            count += 1
            wide = size * gen.uniform(0.8, 1.35)
            centre = (place * canvas.height, (row + gen.uniform(-0.3, 0.3) * size) * canvas.height)
            axes = (2 * wide * canvas.height, 1.44 * wide * canvas.height)
            cv2.ellipse(number, (centre, axes, gen.uniform(-20, 20)), count % 4095 + 1, -1)
    edge = (np.diff(number, axis=0, prepend=number[:1]) != 0) | (np.diff(number, axis=1, prepend=number[:, :1]) != 0)
    near = smoothstep(line, 1.0, canvas.y) + 0.08
    inside = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, 3) / canvas.height
    shape = np.clip(inside / (0.035 * near), 0, 1)
    dome = np.sqrt(1 - (1 - shape) ** 2).astype(np.float32)
    cosine = relief(soften(dome * near, 0.6 + 0.002 * canvas.height), light.toward, 0.07)
    paint = base * tints[number % 4096] * (1 + 0.10 * canvas.noise(30, 0.8)[..., None])
    lit = light.shine(np.clip(paint, 0.01, 1).astype(np.float32), cosine) * (0.3 + 0.7 * dome[..., None])
    air = (0.45 * (1 - smoothstep(line, line + 0.35, canvas.y)))[..., None]
    lit = lit * (1 - air) + light.horizon * 0.7 * air
    canvas.paint(canvas.below(np.full(canvas.width, line, np.float32)), lit.astype(np.float32))


def cliff(canvas: Canvas, light: Light, top: FloatImage, albedo: Colour) -> None:
    """Paints a rock face below its upper edge `top` ([W], 0 top..1 bottom)."""
    folds = np.abs(canvas.noise(4.0, 0.62, 0.30))
    grain = canvas.noise(10, 0.7, 0.6)
    cosine = relief(0.3 * grain - 1.2 * folds, light.toward, 0.16)
    stain = smoothstep(0.3, 1.5, canvas.noise(3, 0.5, 0.12))
    paint = albedo * ((1 + 0.15 * grain) * (1 - 0.4 * stain))[..., None]
    canvas.paint(canvas.below(top), light.shine(np.clip(paint, 0.01, 1).astype(np.float32), cosine))


def waterfall(canvas: Canvas, light: Light, x: float, top: float, foot: float, wide: float) -> None:
    """Paints water that falls from `top` to `foot` (0 top..1 bottom) about `x`, `wide` frame heights, and its mist."""
    gen = canvas.choose
    down = np.clip((canvas.y - top) / (foot - top), 0, 1)
    sway = 0.012 * canvas.noise(2.0, 0.5, 6.0)
    spread = wide * (0.35 + 0.65 * down**0.7) * (1 + 0.10 * canvas.noise(5, 0.6, 4.0))
    inside = smoothstep(1.05, 0.65, np.abs(canvas.x - x + sway) / spread)
    inside = inside * smoothstep(top - 0.004, top + 0.01, canvas.y) * smoothstep(foot + 0.05, foot - 0.02, canvas.y)
    threads = canvas.noise(7.0, 0.7, 0.07)
    veil = np.clip(0.75 + 0.22 * threads, 0.15, 1.0) * inside
    white = 0.75 * light.sun + 0.65 * light.horizon + 0.1
    glow = (0.72 + 0.18 * threads)[..., None]
    canvas.paint(veil.astype(np.float32), (white * np.clip(glow, 0.3, 1.2)).astype(np.float32))
    distance = ((canvas.x - x) / (wide * 2.6 + 0.05)) ** 2 + ((canvas.y - foot) / 0.13) ** 2
    mist = np.exp(-distance) * np.clip(0.75 + 0.22 * canvas.noise(3, 0.6), 0, 1) * gen.uniform(0.6, 0.95)
    canvas.paint(mist.astype(np.float32), (0.8 * white).astype(np.float32))
