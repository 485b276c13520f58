"""Photographs of a folder as pictures, for the commands that read many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from services.core.commands.progress import Progress
from services.core.errors import InvalidImage
from services.core.images import reading
from services.core.images.reading import DEFAULT_LIMITS, EXTENSIONS, ImageLimits
from services.scorer.scoring import Picture

_DRAFT = 1024
_CHUNK = 64


def find(folder: Path) -> list[Path]:
    """Returns the photographs below `folder` by their names, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())


def picture(content: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Picture:
    """Returns the picture of an encoded photograph.

    A large JPEG is decoded at the scale that leaves at least 1024 px of long side: four times faster for
    12 megapixels, and no score moves by it.

    Raises:
        InvalidImage: the bytes are no photograph, damaged, or beyond the limits.
    """
    size = reading.upright_size(content, limits=limits)
    short = -(-_DRAFT * min(size) // max(size))
    return Picture.of(reading.decode(content, short_side=short, limits=limits), size)


def batches(pictures: Sequence[Picture], size: int = 16) -> Iterator[list[int]]:
    """Yields the positions of pictures of equal shape, at most `size` at a time."""
    by_shape: dict[object, list[int]] = defaultdict(list)
    for position, picture in enumerate(pictures):
        by_shape[picture.shape].append(position)
    for positions in by_shape.values():
        for start in range(0, len(positions), size):
            yield positions[start : start + size]


def read_batches(paths: Sequence[Path], shown: Progress) -> Iterator[tuple[list[int], list[Picture]]]:
    """Yields pictures of equal shape with their positions in `paths`, and moves the progress on by one a path.

    What cannot be read is named there and left out.
    """
    for start in range(0, len(paths), _CHUNK):
        pictures, positions = [], []
        for position, path in enumerate(paths[start : start + _CHUNK], start):
            try:
                pictures.append(picture(path.read_bytes()))
                positions.append(position)
            except (OSError, InvalidImage) as error:
                shown.say(f"{path.name} is left out: {error}")
        for batch in batches(pictures):
            yield [positions[i] for i in batch], [pictures[i] for i in batch]
        shown.advance(len(paths[start : start + _CHUNK]))


def grey(picture: Picture) -> Picture:
    """Returns the picture in greys of equal luma (Rec. 709)."""
    luma = np.round(picture.pixels @ np.array([0.2126, 0.7152, 0.0722]))
    pixels = np.repeat(luma[..., None], 3, axis=-1).astype(np.uint8)
    return Picture(pixels, picture.width, picture.height, picture.border)
