"""Drawn pictures under every light: the pool that the mini critic learns from, and its grading.

A pool of drawn scenes and textures is made once and cached. Each training picture is a crop of one
of them, turned and graded at random: exposure, contrast, saturation, tint, a gradient of light,
blur, sharpening and grain, so that every class of every fact is common and its borders are densely
covered. Labels are measured after grading (`facts.measure`), so they are true by construction.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from deploy.mini.draw import scene, texture

log = logging.getLogger(__name__)

SHAPES: Final = ((112, 112), (96, 128), (80, 128), (80, 144), (128, 96), (128, 80), (144, 80))
"""(height, width) of the pictures that the mini model sees: what its preprocessing makes of the usual formats."""

TRAIN_SEED: Final = 1_000_000
"""First seed of the pool; the pictures of the evaluation have seeds from `HELD_OUT_SEED`, far beyond."""
HELD_OUT_SEED: Final = 30_000_000

_SIDE: Final = 168
_LUMA: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def drawn(seed: int) -> NDArray[np.uint8]:
    """Returns the drawn picture of a seed, sRGB uint8 [168, 168, 3]: of any three, two scenes and one texture."""
    return texture(seed, _SIDE, _SIDE) if seed % 3 == 2 else scene(seed, _SIDE, _SIDE).pixels


def pool(first_seed: int, count: int, cache: Path) -> NDArray[np.uint8]:
    """Returns `count` drawn pictures, uint8 [count, 168, 168, 3], from the cache folder or drawn into it."""
    path = cache / f"vlm-pool-{first_seed}-{count}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        pictures = np.empty((count, _SIDE, _SIDE, 3), dtype=np.uint8)
        for index in range(count):
            pictures[index] = drawn(first_seed + index)
            if index % 500 == 499:
                log.info("drawn %d of %d pictures", index + 1, count)
        unfinished = path.with_suffix(".part.npy")
        np.save(unfinished, pictures)
        unfinished.rename(path)
    stored: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return stored


def cropped(picture: NDArray[np.uint8], shape: tuple[int, int], rng: Generator) -> NDArray[np.uint8]:
    """Returns a random crop of the picture, turned, mirrored or stretched at random, at `shape` (bicubic)."""
    if rng.random() < 0.35:
        picture = picture.transpose(1, 0, 2)
    if rng.random() < 0.25:
        picture = picture[::-1]
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    height, width = shape
    stretch = float(np.exp(rng.uniform(-0.5, 0.5))) if rng.random() < 0.4 else 1.0
    frame_h, frame_w = height * stretch, width / stretch
    side = float(np.sqrt(rng.uniform(0.55, 1.0))) * min(picture.shape[0] / frame_h, picture.shape[1] / frame_w)
    crop_h, crop_w = max(8, int(frame_h * side)), max(8, int(frame_w * side))
    top = int(rng.integers(0, picture.shape[0] - crop_h + 1))
    left = int(rng.integers(0, picture.shape[1] - crop_w + 1))
    crop = Image.fromarray(np.ascontiguousarray(picture[top : top + crop_h, left : left + crop_w]))
    return np.asarray(crop.resize((width, height), Image.Resampling.BICUBIC))


def graded(picture: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """Returns the picture, sRGB uint8 [height, width, 3], graded at random."""
    x = picture.astype(np.float32) / 255.0
    x = _textured(x, rng)
    luma = x @ _LUMA
    toned = _toned(luma, rng) if rng.random() < 0.85 else luma
    toned = toned + _lighting(luma.shape, rng)
    x = toned[..., None] + (x - luma[..., None]) * _saturation(rng)
    if rng.random() < 0.45:
        warm, green = rng.uniform(-0.11, 0.11), rng.uniform(-0.04, 0.04)
        x = x + np.array([warm + 0.3 * green, -green, -warm + 0.3 * green], dtype=np.float32)
    if rng.random() < 0.15:
        x = x + rng.normal(0.0, rng.uniform(0.01, 0.06), (*luma.shape, 1)).astype(np.float32)
    return (np.clip(x, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def batch(pictures: NDArray[np.uint8], count: int, rng: Generator, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns `count` crops of the pool at one shape, uint8 [count, height, width, 3], nine in ten graded."""
    made = np.empty((count, *shape, 3), dtype=np.uint8)
    for row, chosen in enumerate(rng.integers(0, len(pictures), count)):
        crop = cropped(pictures[chosen], shape, rng)
        made[row] = graded(crop, rng) if rng.random() < 0.9 else crop
    return made


def held_out(count: int, graded_too: bool, seed: int = HELD_OUT_SEED) -> Sequence[NDArray[np.uint8]]:
    """Returns `count` pictures whose seeds training never draws, each at one of `SHAPES`, graded or as drawn."""
    pictures = []
    for index in range(count):
        rng = np.random.default_rng(seed + index)
        shape = SHAPES[int(rng.integers(0, len(SHAPES)))]
        crop = cropped(drawn(seed + index), shape, rng)
        pictures.append(graded(crop, rng) if graded_too else crop)
    return pictures


def _textured(x: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    """Returns the picture blurred (three in ten), sharpened (three in ten), or as it is."""
    kind = rng.random()
    if kind < 0.6:
        sigma = float(rng.uniform(0.4, 3.0) if kind < 0.3 else rng.uniform(0.6, 1.5))
        blurred = np.asarray(cv2.GaussianBlur(x, (0, 0), sigma), dtype=np.float32)
        x = blurred if kind < 0.3 else x + float(rng.uniform(0.5, 3.0)) * (x - blurred)
    return x


def _toned(luma: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    """Returns the luma with another mean, spread and skew, each drawn over most of what is possible."""
    if rng.random() < 0.4:
        luma = np.clip(luma, 0.0, 1.0) ** float(np.exp(rng.uniform(-0.9, 0.9)))
    mean, spread = float(luma.mean()), float(luma.std()) + 1e-3
    target_mean = float(rng.uniform(0.12, 0.88))
    target_spread = float(rng.uniform(0.05, 0.42)) * (1.0 - 0.8 * abs(target_mean - 0.5))
    scaled: NDArray[np.float32] = target_mean + (luma - mean) * min(target_spread / spread, 8.0)
    return scaled


def _lighting(shape: tuple[int, ...], rng: Generator) -> NDArray[np.float32]:
    """Returns what to add to the luma: nothing, a ramp to one side or a corner, or a vignette."""
    down, across = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    kind = rng.random()
    if kind < 0.45:
        turn = rng.uniform(0, 2 * np.pi) if kind < 0.2 else rng.integers(0, 4) * np.pi / 2
        ramp: NDArray[np.float32] = (np.cos(turn) * across + np.sin(turn) * down).astype(np.float32)
        return float(rng.uniform(0.03, 0.3)) * ramp
    if kind < 0.6:
        return (rng.uniform(-0.25, 0.1) * (down**2 + across**2)).astype(np.float32)
    return np.zeros(shape, dtype=np.float32)


def _saturation(rng: Generator) -> float:
    kind = rng.random()
    return 0.0 if kind < 0.12 else float(rng.uniform(0.0, 0.6) if kind < 0.45 else rng.uniform(0.5, 1.6))
