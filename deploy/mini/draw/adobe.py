"""Adobe buildings: plain walls with round edges, deep doorways, the shadows of beams."""

import numpy as np

from deploy.mini.draw.canvas import Canvas, Colour, relief, rgb, smoothstep, soften
from deploy.mini.draw.lighting import Light
from deploy.mini.draw.noise import FloatImage


def _box(left: float, top: float, right: float, foot: float) -> FloatImage:
    lean = 0.02 * (foot - top)
    return np.array([[left + lean, top], [right - lean, top], [right, foot], [left, foot]])


def _soften(canvas: Canvas, mask: FloatImage, radius: float) -> FloatImage:
    """Rounds the corners of a mask, keeping its edge sharp."""
    blurred = soften(mask.astype(np.float32), max(0.6, radius * canvas.height))
    width = 0.5 / max(radius * canvas.height, 1.0)
    return smoothstep(0.5 - width, 0.5 + width, blurred)


def wall(canvas: Canvas, light: Light, box: FloatImage, albedo: Colour, lit: float) -> FloatImage:
    """Paints one wall; `lit` 0..1 is how squarely the sun meets it. Returns its mask [H, W]."""
    mask = _soften(canvas, canvas.shape(box), 0.014)
    plaster = canvas.noise(6, 0.62)
    cosine = lit * (0.65 + 0.35 * relief(plaster + 0.6 * canvas.noise(24, 0.7), light.toward, 0.035))
    fade = 1 - 0.22 * smoothstep(box[:, 1].min(), box[:, 1].max(), canvas.y)
    paint = albedo * ((1 + 0.05 * plaster) * fade)[..., None]
    canvas.paint(mask, light.shine(np.clip(paint, 0.01, 1).astype(np.float32), cosine.astype(np.float32)))
    return mask


def building(canvas: Canvas, light: Light, x: float, ground: float, albedo: Colour, door: Colour, beams: int) -> None:
    """Paints stepped adobe blocks with a doorway at `x` (frame heights), standing on `ground` (0 top..1 bottom)."""
    gen = canvas.choose
    for _ in range(int(gen.integers(1, 3))):  # blocks behind
        left = gen.uniform(-0.2, canvas.aspect - 0.3)
        behind = _box(left, gen.uniform(0.16, 0.34), left + gen.uniform(0.35, 0.8), ground)
        wall(canvas, light, behind, albedo * 0.85, 0.45)
    left, right = x - gen.uniform(0.28, 0.45), x + gen.uniform(0.28, 0.45)
    top = gen.uniform(0.30, 0.42)
    turn = left if light.side == "right" else right
    bright = wall(canvas, light, _box(left, top, right, ground), albedo, 0.95)
    outer = turn - 0.16 if turn == left else turn + 0.16
    shaded = _box(min(turn, outer), top + 0.03, max(turn, outer), ground)
    wall(canvas, light, shaded, albedo * 0.8, 0.12)
    lean = -light.toward[0]
    for place in np.linspace(left + 0.06, right - 0.06, beams):
        y = top + 0.07
        reach = place + lean * 0.07
        fall = np.array([[place - 0.008, y], [place + 0.008, y], [reach + 0.008, y + 0.12], [reach - 0.008, y + 0.12]])
        canvas.light *= 1 - (0.55 * canvas.shape(fall) * bright)[..., None]
        canvas.paint(canvas.disc(place, y, 0.013), rgb(0.10, 0.06, 0.04))
    high = (ground - top) * gen.uniform(0.5, 0.62)
    opening = _soften(canvas, canvas.shape(_box(x - 0.075, ground - high, x + 0.075, ground + 0.003)), 0.006)
    depth = smoothstep(ground, ground - high, canvas.y)[..., None]
    inside = door * (1 - 0.6 * depth) * (light.ambient + 0.25 * light.sun)
    canvas.paint(opening, np.broadcast_to(inside, canvas.light.shape).astype(np.float32))
    end = ground + 0.16
    fall = np.array([[left, ground], [right, ground], [right + lean * 0.5, end], [left + lean * 0.5, end]])
    shadow = soften(canvas.shape(fall), max(0.5, 0.008 * canvas.height))
    canvas.light *= 1 - (0.5 * shadow * (canvas.y >= ground))[..., None]
