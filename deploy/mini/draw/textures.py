"""Pictures without content that have the statistics of natural images.

Dead leaves, 1/f noise, cells, strokes and mixtures of them, after Baradad et al. 2021, "Learning to See by Looking
at Noise": a map says which of many surfaces each pixel shows; each surface has its own colour, shading and texture.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.mini.draw.canvas import Canvas, soften
from deploy.mini.draw.noise import FloatImage, profile

Surfaces = NDArray[np.int32]
"""Number of the surface that each pixel shows, [H, W]."""

_FINE = 2  # surfaces are drawn at this multiple of the size and averaged down, so that edges are smooth


def _sizes(gen: np.random.Generator, count: int, smallest: float, largest: float) -> NDArray[np.float64]:
    """Radii with the power law r^-3 of natural objects (Lee, Mumford, Huang 2001), largest first."""
    u = gen.random(count)
    radii = 1 / np.sqrt(u / largest**2 + (1 - u) / smallest**2)
    return np.sort(radii)[::-1]


def _leaves(canvas: Canvas) -> Surfaces:
    gen = canvas.choose
    count = int(gen.integers(30, 220))
    surfaces = np.zeros((canvas.height, canvas.width), np.int32)
    largest = gen.uniform(0.2, 0.7)
    bent = gen.random() < 0.5
    corners_least, corners_most = ((3, 6), (8, 14), (4, 5), (3, 14))[int(gen.integers(4))]
    long = np.exp(gen.normal(0, 0.7))
    heading = gen.uniform(0, np.pi)
    for number, radius in enumerate(_sizes(gen, count, 0.02, largest), start=1):
        corners = int(gen.integers(corners_least, corners_most))
        turn = np.sort(gen.uniform(0, 2 * np.pi, corners)) if bent else np.arange(corners) * 2 * np.pi / corners
        reach = radius * (gen.uniform(0.5, 1.4, corners) if bent else np.ones(corners))
        tilt = heading + gen.normal(0, 0.5)
        along, beside = reach * np.cos(turn) * long, reach * np.sin(turn) / long
        points = np.stack([np.cos(tilt) * along - np.sin(tilt) * beside, np.sin(tilt) * along + np.cos(tilt) * beside])
        points += np.array([[gen.uniform(0, canvas.aspect)], [gen.uniform(0, 1)]])
        cv2.fillPoly(surfaces, [np.round(points.T * canvas.height).astype(np.int32)], number)
    return surfaces


def _noise(canvas: Canvas) -> Surfaces:
    return np.zeros((canvas.height, canvas.width), np.int32)


def _levels(canvas: Canvas) -> Surfaces:
    gen = canvas.choose
    field = canvas.noise(gen.uniform(1, 4), gen.uniform(0.35, 0.65), float(np.exp(gen.normal(0, 0.5))))
    surfaces = np.floor(field * gen.uniform(0.8, 4)).astype(np.int32)
    return np.asarray(surfaces - surfaces.min(), np.int32)


def _stripes(canvas: Canvas) -> Surfaces:
    gen = canvas.choose
    heading = gen.uniform(0, np.pi)
    phase = (canvas.x * np.cos(heading) + canvas.y * np.sin(heading)) * gen.uniform(2, 20)
    bent = phase + gen.uniform(0, 1.5) * canvas.noise(2, 0.4)
    surfaces = np.floor(bent + 0.4 * np.sin(bent * gen.uniform(0.5, 2))).astype(np.int32)
    return np.asarray(surfaces - surfaces.min(), np.int32)


def _cells(canvas: Canvas) -> Surfaces:
    gen = canvas.choose
    count = int(np.exp(gen.uniform(np.log(8), np.log(300))))
    seeds = np.ones((canvas.height, canvas.width), np.uint8)
    seeds[gen.integers(0, canvas.height, count), gen.integers(0, canvas.width, count)] = 0
    _, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    return labels.astype(np.int32)


def _strokes(canvas: Canvas) -> Surfaces:
    gen = canvas.choose
    count = int(gen.integers(30, 250))
    surfaces = np.zeros((canvas.height, canvas.width), np.int32)
    heading, spread = gen.uniform(0, 2 * np.pi), gen.uniform(0.05, 1.5)
    for number in range(1, count + 1):
        steps = np.cumsum(gen.normal(0, 0.25, 8)) + heading + gen.normal(0, spread)
        length = gen.uniform(0.02, 0.12)
        path = np.cumsum(np.stack([np.cos(steps), np.sin(steps)], 1) * length, axis=0)
        path += np.array([gen.uniform(-0.3, canvas.aspect), gen.uniform(-0.3, 1.3)])
        points = np.round(path * canvas.height).astype(np.int32)
        width = max(1, round(float(gen.exponential(0.02)) * canvas.height))
        cv2.polylines(surfaces, [points], False, number, width)
    return surfaces


def _blocks(canvas: Canvas) -> Surfaces:
    gen = canvas.choose
    surfaces = np.zeros((canvas.height, canvas.width), np.int32)
    tilt = gen.normal(0, 0.12)
    for number, size in enumerate(_sizes(gen, int(gen.integers(15, 120)), 0.03, 0.6), start=1):
        half = size * np.exp(gen.normal(0, 0.5, 2))
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
        corners[:, 1] += tilt * corners[:, 0]
        corners += np.array([gen.uniform(0, canvas.aspect), gen.uniform(0, 1)])
        cv2.fillPoly(surfaces, [np.round(corners * canvas.height).astype(np.int32)], number)
    return surfaces


def _layers(canvas: Canvas) -> Surfaces:
    gen = canvas.choose
    surfaces = np.zeros((canvas.height, canvas.width), np.int32)
    count = int(gen.integers(2, 9))
    for number, base in enumerate(np.sort(gen.uniform(0.05, 0.95, count)), start=1):
        line = base + gen.uniform(0.01, 0.12) * profile(gen, canvas.width, gen.uniform(1, 8), gen.uniform(0.3, 0.65))
        surfaces[canvas.y >= line[None, :]] = number
    return surfaces


FAMILIES: dict[str, Callable[[Canvas], Surfaces]] = {
    "leaves": _leaves, "noise": _noise, "levels": _levels, "stripes": _stripes, "blocks": _blocks, "layers": _layers,
    "cells": _cells, "strokes": _strokes,
}  # fmt: skip


def _palette(gen: np.random.Generator, count: int) -> FloatImage:
    """Colours of `count` surfaces, [count, 3]: bright and dark, a few related hues, mostly of low saturation."""
    hues = gen.normal(0, 1, (int(gen.integers(1, 5)), 3)) * gen.choice((0.02, 0.06, 0.15))
    tone = gen.uniform(0.25, 0.7) + gen.uniform(0.1, 0.3) * gen.normal(0, 1, count)
    tints = hues[gen.integers(0, len(hues), count)] + gen.normal(0, 0.04, (count, 3))
    cast = gen.normal(0, 0.06, 3)
    return np.asarray(tone[:, None] + tints * (0.4 + tone[:, None]) + cast, np.float32)


def _shade(canvas: Canvas, surfaces: Surfaces) -> FloatImage:
    """Colour each surface with its own gradient and texture, [H, W, 3]."""
    gen = canvas.choose
    count = int(surfaces.max()) + 1
    flat = surfaces.ravel()
    picture = _palette(gen, count)[flat].reshape(*surfaces.shape, 3)
    strong = gen.uniform(0, 0.5)
    tilt = (gen.normal(0, strong, (count, 2))).astype(np.float32)[flat].reshape(*surfaces.shape, 2)
    light = tilt[..., 0] * (canvas.x - canvas.aspect / 2) + tilt[..., 1] * (canvas.y - 0.5)
    rough = gen.uniform(0.3, 0.75)
    textures = np.stack(
        [
            canvas.noise(gen.uniform(2, 24), rough, float(np.exp(gen.normal(0, 0.8)))),
            canvas.noise(gen.uniform(8, 40), 0.8, float(np.exp(gen.normal(0, 0.8)))),
        ],
        2,
    )
    amount = np.abs(gen.normal(0, 0.07, (count, 2))).astype(np.float32)[flat].reshape(*surfaces.shape, 2)
    light = light + (amount * textures).sum(axis=2)
    return np.asarray(picture * (1 + light[..., None]) + 0.5 * light[..., None])


def _shadow(canvas: Canvas, surfaces: Surfaces) -> FloatImage:
    """Soft shadow beside the edges of the surfaces, [H, W], 0..1."""
    gen = canvas.choose
    edge = np.diff(surfaces, axis=0, prepend=surfaces[:1]) != 0
    edge |= np.diff(surfaces, axis=1, prepend=surfaces[:, :1]) != 0
    return soften(edge.astype(np.float32), canvas.height * gen.uniform(0.006, 0.03))


def texture(seed: int, height: int, width: int, families: tuple[str, ...] = tuple(FAMILIES)) -> NDArray[np.uint8]:
    """Draws a picture with natural image statistics, the same from the same seed.

    Returns uint8 [height, width, 3] sRGB. `seed` >= 0, sizes >= 16 pixels. One to three of the `families` (names
    in `FAMILIES`) are laid over one another along cloud-like borders. Raises ValueError for an unknown family.
    """
    for family in families:
        if family not in FAMILIES:
            raise ValueError(f"Unknown family of textures {family!r}: choose among {', '.join(FAMILIES)}.")
    canvas = Canvas(seed, height * _FINE, width * _FINE)
    gen = canvas.choose
    picture: FloatImage | None = None
    for _ in range(int(gen.choice((1, 2, 3), p=(0.45, 0.35, 0.2)))):
        surfaces = FAMILIES[families[int(gen.integers(len(families)))]](canvas)
        painted = _shade(canvas, surfaces)
        if gen.random() < 0.6:
            painted = painted * (1 - gen.uniform(0.2, 0.9) * _shadow(canvas, surfaces))[..., None]
        if picture is None:
            picture = painted
        else:
            border = canvas.noise(gen.uniform(0.7, 3), 0.5) * gen.uniform(1, 12) + gen.normal(0, 0.5)
            picture += np.clip(border + 0.5, 0, 1)[..., None] * (painted - picture)
        if gen.random() < 0.3:
            picture = soften(picture, canvas.height * float(gen.exponential(0.01)) + 0.3)
    assert picture is not None
    picture = picture * (1 + gen.uniform(0, 0.35) * canvas.noise(1.0, 0.4))[..., None]
    if gen.random() < 0.2:
        picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    small: FloatImage = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))
    small = 0.5 + (small - small.mean()) * gen.uniform(0.7, 1.6) + gen.normal(0, 0.1)
    small += gen.choice((0.004, 0.02)) * canvas.grain.standard_normal((height, width, 1), dtype=np.float32)
    return np.asarray(np.clip(small * 255 + 0.5, 0, 255), np.uint8)
