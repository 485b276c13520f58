"""Decoded pixels of any mode, brought to upright 8-bit sRGB."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageCms

# The greatest colour profile that is applied; those of printing presses have about 3 MiB.
MAX_PROFILE_BYTES: Final = 8 * 1024 * 1024
ORIENTATION_TAG: Final = 0x0112
TIFF_BITS_TAG: Final = 258
TIFF_PHOTOMETRIC_TAG: Final = 262
WHITE_IS_ZERO: Final = 0
FIRST_ON_ITS_SIDE: Final = 5
"""The least EXIF orientation whose width and height change places."""
# What brings a photograph upright, by the EXIF orientation (1 is upright already).
UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright_srgb(image: Image.Image) -> Image.Image:
    """Returns a loaded image of any mode as mode RGB: sRGB, 8 bits, upright, alpha laid over white."""
    orientation = orientation_of(image)
    profile = image.info.get("icc_profile")
    colour, alpha = _split_alpha(_eight_bits(image))
    rgb = _srgb(colour, profile if isinstance(profile, bytes) else None)
    if alpha is not None:
        # In place, since `rgb` is a copy already: a second picture would take as much memory again.
        rgb.paste("white", mask=ImageChops.invert(alpha))
    return rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb


def grey_from_16(values: npt.NDArray[Any], greatest: int) -> npt.NDArray[np.uint8]:
    """Returns 0..`greatest` scaled to 0..255 (uint8), rounded; for 16 bits that is a division by 257, exact at both
    ends.

    Pillow's own conversion clips at 255 instead, which turns nearly all of a 16-bit photograph white.
    """
    wide = np.minimum(values.astype(np.uint32), greatest)
    return ((wide * 255 + greatest // 2) // greatest).astype(np.uint8)


def orientation_of(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 (upright) where the file says nothing usable."""
    try:
        # Not image.getexif(), which decodes a PNG to look for it.
        named = int(Image.Image.getexif(image).get(ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF says nothing, and the photograph is good without it
        return 1
    return named if named in UPRIGHT else 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Returns an image of more than 8 bits a channel as mode L, every other as it is."""
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        greatest = 2 ** min(int(max(tags.get(TIFF_BITS_TAG, (16,)))), 16) - 1
        grey = np.concatenate([grey_from_16(rows, greatest) for rows in _strips(image)])
    elif image.mode == "I":
        # Wider integers have no agreed white: 16 bits where they suffice, else the brightest value.
        white = max(65_535, *(int(rows.max()) for rows in _strips(image)))
        grey = np.concatenate(
            [np.rint(np.clip(rows, 0, None) * (255.0 / white)).astype(np.uint8) for rows in _strips(image)]
        )
    elif image.mode == "F":
        # Floating-point photographs have white at 1; where values go beyond, the brightest is white.
        brightest = max(1.0, *(float(_finite(rows).max()) for rows in _strips(image)))
        grey = np.concatenate(
            [np.rint(np.clip(_finite(rows) / brightest, 0.0, 1.0) * 255.0).astype(np.uint8) for rows in _strips(image)]
        )
    else:
        return image
    if tags.get(TIFF_PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        grey = 255 - grey
    return Image.fromarray(grey)


def _strips(image: Image.Image) -> Iterator[npt.NDArray[Any]]:
    """Yields an image's values, about a million at a time, so that there is never a copy of all of them."""
    height = max(1, 1_000_000 // image.width)
    for top in range(0, image.height, height):
        yield np.asarray(image.crop((0, top, image.width, min(top + height, image.height))))


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0))


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Returns the colours and the transparency (mode L), None where every pixel is opaque."""
    if image.mode == "RGBa":
        image = image.convert("RGBA")
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode in ("P", "PA"):
        # Palettes are left first: resizing indexes would mix neighbours of the palette, not colours.
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode in ("1", "L", "RGB") and image.has_transparency_data:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        return image.convert("RGB"), image.getchannel("A")
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    return (image.convert("L"), None) if image.mode == "1" else (image, None)


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode == "LAB":
        applied = ImageCms.applyTransform(image, _lab_transform())
        return image.convert("RGB") if applied is None else applied
    if profile and len(profile) <= MAX_PROFILE_BYTES and image.mode in ("L", "RGB", "CMYK"):
        transform = _transform(profile, image.mode)
        if transform is not None:
            return transform.apply(image)
    # Pillow would copy what is RGB already.
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the transform from a profile to sRGB; None where the profile is sRGB itself or cannot be used.

    Building one takes milliseconds; applying one is thread-safe (lcms2 copies its cache on every call).
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if mode == "RGB" and ImageCms.getProfileDescription(source).lower().startswith("srgb"):
            return None
        return ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except Exception:  # a damaged profile, or one of another colour space: the pixels are taken as sRGB
        return None


@functools.lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
