"""Small pictures, drawn anew in every test, and advisors' folders of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Returns a smooth picture (width, height) that no other seed gives."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, size=(5, 7, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image | NDArray[np.uint8], form: str = "PNG", **options: object) -> bytes:
    """Returns a file's bytes."""
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def photograph(seed: int, size: tuple[int, int] = (96, 64)) -> bytes:
    """Returns the bytes of a PNG file."""
    return encoded(picture(seed, size))


def advisor_folder(path: Path, seeds: range) -> Path:
    """Makes an advisor's folder with one photograph a seed, named 000.png and so on, and returns it."""
    references = path / "references"
    references.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (references / f"{seed:03d}.png").write_bytes(photograph(seed))
    return path
