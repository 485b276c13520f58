"""From an encoded photograph to the encoder's input pixels, as open_clip's own inference transform defines them.

Three things are done better than there: photographs are brought upright, to sRGB and to 8 bits first
(`services.core.images.pixels`), a JPEG is decoded at the smallest scale that keeps three times the input's size, and
the resize is torch's, which computes what Pillow's does, up to two of 255 levels where roundings decide, in a quarter
of the time. The last two leave the cosine to the slow path above 0.9999.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from services.core.errors import ConfigurationError
from services.core.images.reading import DEFAULT_LIMITS, ImageLimits, decode
from services.core.models.open_clip_folder import MEAN, STD
from services.embedder.encoder import Pixels

VERSION = 2
"""Goes into the space id: raise it whenever the same photograph would give other pixels."""
SCALED_DECODE = 3
"""A JPEG is decoded with at least this many times the input's shorter side; 1 would cost 1e-3 of cosine."""
_LARGE = 4_000_000
"""Pixels beyond which Pillow resizes, reducing by boxes of pixels first: no scaled JPEG has so many."""
_REDUCING_GAP = 2.0
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocessing:
    """How an encoder wants its input."""

    height: int
    """Pixels, 1 and more."""
    width: int
    """Pixels, 1 and more."""
    mean: tuple[float, float, float] = MEAN
    """Subtracted from red, green and blue, which range from 0 to 1."""
    std: tuple[float, float, float] = STD
    """Divides what is left."""
    interpolation: str = "bicubic"
    """`bicubic` or `bilinear`."""
    resize_mode: str = "shortest"
    """`shortest` crops the middle, `longest` pads to the whole, `squash` ignores the proportions."""
    fill: int = 0
    """The grey value (0 to 255) that `longest` pads with."""

    @classmethod
    def of(cls, image_size: int | tuple[int, int], config: dict[str, Any]) -> Preprocessing:
        """Returns the preprocessing of an open_clip configuration (its `preprocess_cfg`) and the tower's input size.

        Raises:
            ConfigurationError: a value is not one that open_clip knows.
        """
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        made = cls(
            height=height,
            width=width,
            mean=_three(config.get("mean") or MEAN),
            std=_three(config.get("std") or STD),
            interpolation=str(config.get("interpolation") or "bicubic"),
            resize_mode=str(config.get("resize_mode") or "shortest"),
            fill=int(config.get("fill_color") or 0),
        )
        if made.interpolation not in _FILTERS or made.resize_mode not in ("shortest", "longest", "squash"):
            raise ConfigurationError(
                f"open_clip_config.json asks for interpolation {made.interpolation!r} and resize_mode "
                f"{made.resize_mode!r}; use bicubic or bilinear, and shortest, longest or squash."
            )
        return made

    def photograph(self, content: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
        """Returns the upright sRGB photograph, large enough for `pixels` to lose nothing that counts.

        Raises:
            InvalidImage: the bytes are not a photograph within the limits.
        """
        return decode(content, short_side=SCALED_DECODE * max(self.height, self.width), limits=limits)

    def pixels(self, photograph: Image.Image) -> Pixels:
        """Returns the encoder's input: uint8, [height, width, 3], red first, not yet normalised."""
        width, height = self._resized(photograph.width, photograph.height)
        resized = _resize(photograph, width, height, self.interpolation)
        if self.resize_mode == "longest":
            left, top = (self.width - width) // 2, (self.height - height) // 2
            padded = np.full((self.height, self.width, 3), self.fill, np.uint8)
            padded[top : top + height, left : left + width] = resized
            return padded
        left, top = round((width - self.width) / 2), round((height - self.height) / 2)
        return np.ascontiguousarray(resized[top : top + self.height, left : left + self.width])

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Returns (width, height) after the resize and before cropping or padding, rounded as open_clip rounds."""
        if self.resize_mode == "squash":
            return self.width, self.height
        if self.resize_mode == "shortest" and self.width == self.height:
            # torchvision cuts the longer side's fraction off.
            if width <= height:
                return self.width, max(self.height, int(self.height * height / width))
            return max(self.width, int(self.width * width / height)), self.height
        ratios = (width / self.width, height / self.height)
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def _resize(photograph: Image.Image, width: int, height: int, interpolation: str) -> Pixels:
    """Returns the photograph at another size: uint8, [height, width, 3]."""
    if photograph.width * photograph.height > _LARGE:
        # Where it lies, without the copy that torch needs, which would double the memory.
        return np.asarray(photograph.resize((width, height), _FILTERS[interpolation], reducing_gap=_REDUCING_GAP))
    # A copy, since torch wants what may be written to.
    whole = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        resized = torch.nn.functional.interpolate(whole, (height, width), mode=interpolation, antialias=True)
    pixels: Pixels = resized[0, :3].permute(1, 2, 0).numpy()
    return pixels


def _three(values: Any) -> tuple[float, float, float]:
    numbers = [float(value) for value in (values if isinstance(values, (list, tuple)) else [values] * 3)]
    if len(numbers) != 3:
        raise ConfigurationError("open_clip_config.json must give three numbers each for mean and std.")
    return numbers[0], numbers[1], numbers[2]
