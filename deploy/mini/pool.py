"""The pictures that the CLIP learns from: drawn once, kept as bytes in a folder that git ignores."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.mini.draw import scene, texture
from deploy.mini.draw.textures import FAMILIES

SIDE = 96
"""Side of the pictures in the pool, pixels; other shapes are squeezed to a square, as at inference."""

HELD_OUT_FAMILIES = ("cells", "stripes")
"""Families of textures that are never trained on: the "other kind" of picture, which stands in for the gap to
real photographs when recipes are compared."""

TRAINING_FAMILIES = tuple(name for name in FAMILIES if name not in HELD_OUT_FAMILIES)

_SHAPES = ((96, 96), (96, 128), (96, 144), (128, 96))
_MANNERS = (None, None, None, "ansel", "okeefe")
_HELD_OUT_SEED = 2**40
_DRAWING = Path(__file__).parent / "draw"


@dataclass(frozen=True)
class Pool:
    """Drawn pictures: `scenes` and `textures` uint8 [N, SIDE, SIDE, 3], and a caption for each scene."""

    scenes: NDArray[np.uint8]
    captions: list[str]
    textures: NDArray[np.uint8]


def _square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def _fingerprint(scenes: int, textures: int, seed: int) -> str:
    digest = hashlib.sha256(f"{scenes} {textures} {seed} {SIDE}".encode())
    for source in sorted(_DRAWING.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def draw_pool(scenes: int, textures: int, seed: int, cache: Path, report: Callable[[int], None]) -> Pool:
    """Draws a pool, or reads it from `cache` where the same code drew it before.

    Calls `report` with the number of pictures drawn, once every thousand.
    """
    name = cache / f"pool-{_fingerprint(scenes, textures, seed)}"
    pictures, words = name.with_suffix(".npy"), name.with_suffix(".json")
    if not (pictures.exists() and words.exists()):
        cache.mkdir(parents=True, exist_ok=True)
        drawn = np.empty((scenes + textures, SIDE, SIDE, 3), np.uint8)
        captions = []
        for number in range(scenes + textures):
            own = seed * 1_000_003 + number
            height, width = _SHAPES[number % len(_SHAPES)]
            if number < scenes:
                picture = scene(own, height, width, _MANNERS[number % len(_MANNERS)])
                captions.append(picture.caption)
                drawn[number] = _square(picture.pixels)
            else:
                drawn[number] = _square(texture(own, height, width, TRAINING_FAMILIES))
            if number % 1000 == 999:
                report(number + 1)
        np.save(pictures.with_suffix(".part.npy"), drawn)
        pictures.with_suffix(".part.npy").replace(pictures)
        words.write_text(json.dumps(captions))
    drawn = np.load(pictures, mmap_mode="r")
    return Pool(drawn[:scenes], json.loads(words.read_text()), drawn[scenes:])


def held_out(kind: str, count: int, side: int = 256) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """Draws `count` pictures that no training seed reaches, and their captions ("" for textures).

    `kind` is "mixed" (scenes and textures in turn), "other" (families never trained on) or "scenes" (colour scenes
    with distinct captions). Pictures are uint8 [side, W, 3], W one to 1.5 times `side`.
    """
    pictures: list[NDArray[np.uint8]] = []
    captions: list[str] = []
    seed = _HELD_OUT_SEED
    while len(pictures) < count:
        seed += 1
        height, width = _SHAPES[seed % 3]
        height, width = side, side * width // height
        if kind == "scenes" or (kind == "mixed" and seed % 2):
            drawn = scene(seed, height, width, None if kind == "scenes" else _MANNERS[seed % len(_MANNERS)])
            if kind == "scenes" and drawn.caption in captions:
                continue
            pictures.append(drawn.pixels)
            captions.append(drawn.caption)
        else:
            families = HELD_OUT_FAMILIES if kind == "other" else TRAINING_FAMILIES
            pictures.append(texture(seed, height, width, families))
            captions.append("")
    return pictures, captions
