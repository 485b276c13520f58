"""Photographs: from a file's bytes to upright sRGB pixels, within limits that are checked before decoding.

Every way in which a file can be unusable ends in one InvalidImage with a sentence for the person who sent it:
never in a warning, another exception or a decoded bomb. All functions may be called from several threads at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from services.core.errors import InvalidImage
from services.core.images import faults, pixels
from services.core.images.faults import ACCEPTED

if TYPE_CHECKING:
    from services.core.settings import ModelSettings

# Every plugin is imported here, the multi-picture one included: lazy loading is not safe in several threads.
MULTI_PICTURE: Final = MpoImagePlugin.MpoImageFile.format
FORMATS: Final = (
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    GifImagePlugin.GifImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
)
"""The formats that are read; whatever else Pillow knows is refused unopened. MPO files open as JPEG."""
EXTENSIONS: Final = frozenset({".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp"})
"""File name endings of these formats, in lower case."""

# The limits below replace Pillow's own guess at a bomb, which would print a warning at 89 million pixels.
Image.MAX_IMAGE_PIXELS = None
# Pillow reports damaged metadata as warnings; a file that is usable without it is used, and nobody is told.
warnings.filterwarnings("ignore", module=r"PIL\.")

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_END: Final = b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True)
class ImageLimits:
    """What a photograph may cost. All limits are inclusive and checked from the header, before decoding.

    Frames need no limit: the first is decoded, and the others are never read.
    """

    max_bytes: int = 15 * 1024 * 1024
    """The greatest file, in bytes; a message of 16 MiB carries it."""
    max_pixels: int = 100_000_000
    """The greatest width x height that the header may name."""
    max_side: int = 30_000
    """The greatest width and the greatest height, in pixels."""
    max_decoded_pixels: int = 64_000_000
    """The greatest number of pixels that decoding holds in memory. A baseline JPEG read at a reduced scale counts
    at that scale; every other file, a JPEG of several scans (a progressive one) included, counts whole, and a TIFF as
    its tile where that is larger."""
    max_scanned_pixels: int = 6_400_000_000
    """The greatest width x height x scans of a JPEG of several scans, each of which goes over all pixels and may take
    ten bytes of the file; ten are common."""

    @classmethod
    def of(cls, settings: ModelSettings) -> ImageLimits:
        """Returns the limits of a service."""
        return cls(max_bytes=int(settings.max_image_bytes), max_pixels=settings.max_image_pixels)


DEFAULT_LIMITS: Final = ImageLimits()
LARGE: Final = 16_000_000
"""Pixels held in memory beyond which photographs are decoded one at a time: with its transparency laid over white the
largest takes half a gigabyte (as an animated WebP a whole one), and threads enough to keep all cores busy would take
that many of them."""
_one_large: Final = threading.Lock()
THUMBNAIL_SIDE: Final = 256
# A header in as many pieces as a file of 15 MiB has room for would take Python half a minute to read.
_MAX_HEADER_READS: Final = 10_000
# The beginning of a JPEG's scan: marker, length, and of how many channels it is.
_SCAN: Final = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")


def decode(content: bytes, *, short_side: int | None = None, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Returns the photograph: mode RGB, sRGB, 8 bits, upright as its EXIF says, alpha laid over white.

    16-bit and 12-bit grey are scaled to 8 bits; CMYK, palettes and greyscale become RGB; an embedded colour
    profile is applied; of an animation or a multi-picture file the first frame is taken.

    `short_side` (pixels) permits a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size, as long as its shorter
    side stays at least that long; other formats, and None, give the full size.

    Raises:
        InvalidImage: IMAGE_EMPTY (no bytes), IMAGE_TOO_LARGE (beyond the limits), IMAGE_TRUNCATED (the file ends
            too early), IMAGE_UNDECODABLE (no photograph, or a damaged one).
    """
    image = _open(content, limits)
    held = max(image.width * image.height, _tile_pixels(image))
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        scans = _scans(content, image)
        if scans > 1 and held * scans > limits.max_scanned_pixels:
            raise InvalidImage(
                f"The photograph is stored in {scans:,} scans, far more than any needs; save it as a baseline (not"
                " progressive) JPEG.",
                reason="IMAGE_TOO_LARGE",
            )
        if short_side is not None:
            # The smallest scale at which both sides are still at least as long as asked.
            image.draft(None, (short_side, short_side))
            # One of several scans holds the coefficients of every pixel, whatever the scale.
            if scans == 1:
                held = image.width * image.height
    if held > limits.max_decoded_pixels:
        raise InvalidImage(
            f"The photograph would take {held / 1e6:,.0f} million pixels in memory, more than the"
            f" {limits.max_decoded_pixels / 1e6:,.0f} million accepted; send a smaller copy, or a baseline (not"
            " progressive) JPEG.",
            reason="IMAGE_TOO_LARGE",
        )
    try:
        with _one_large if held > LARGE else contextlib.nullcontext():
            image.load()
            return pixels.upright_srgb(image)
    except MemoryError as error:
        raise InvalidImage(
            "The photograph does not fit into the memory; send a smaller copy.", reason="IMAGE_TOO_LARGE"
        ) from error
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them run into
        raise faults.damaged(content, image, error) from error


def upright_size(content: bytes, *, limits: ImageLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Returns width and height of the upright photograph in pixels, without decoding it.

    Raises:
        InvalidImage: as `decode`, for what the header shows.
    """
    image = _open(content, limits)
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile) and pixels.ORIENTATION_TAG in image.tag_v2:
        return width, height  # upright already, alone of all formats
    if isinstance(image, PngImagePlugin.PngImageFile):
        # What it says of itself may stand behind the pixels.
        with contextlib.suppress(InvalidImage):
            image = _open(_without_pixels(content), limits)
    return (height, width) if pixels.orientation_of(image) >= pixels.FIRST_ON_ITS_SIDE else (width, height)


def read_file(path: Path, *, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """Returns the bytes of a photograph's file; one beyond the limits is not read into memory.

    Raises:
        InvalidImage: IMAGE_TOO_LARGE.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(limits.max_bytes + 1)
        if len(content) > limits.max_bytes:
            raise _too_large(os.fstat(file.fileno()).st_size, limits)
    return content


def sha256(content: bytes) -> str:
    """Returns the identity of a file's bytes: 64 lower-case hex characters."""
    return hashlib.sha256(content).hexdigest()


def thumbnail_jpeg(image: Image.Image) -> bytes:
    """Returns a JPEG without metadata whose longer side is at most THUMBNAIL_SIDE pixels; never enlarged."""
    scale = min(1.0, THUMBNAIL_SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    # Reduced by boxes first, as Pillow makes thumbnails of itself: a fifth of the time of the best filter.
    small = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    # A fresh picture, so that nothing of the file's own metadata (place, owner) travels along.
    clean = Image.new("RGB", size)
    clean.paste(small)
    buffer = io.BytesIO()
    clean.save(buffer, "JPEG", quality=85, optimize=True)
    return buffer.getvalue()


class _File(io.BytesIO):
    """A file's bytes, which can be read only so often until it is open."""

    reads_left: int | None = _MAX_HEADER_READS

    def read(self, size: int | None = -1, /) -> bytes:
        if self.reads_left is not None:
            self.reads_left -= 1
            if self.reads_left < 0:
                raise ValueError("the header has too many pieces")
        return super().read(size)


def _scans(content: bytes, image: JpegImagePlugin.JpegImageFile) -> int:
    """Returns the scans of a JPEG, 2 and more; 1 where the first is all that is read, since it holds whole pixels."""
    scans = _SCAN.findall(content)
    several = image.info.get("progressive") or any(scan[-1] < image.layers for scan in scans)
    return max(2, len(scans)) if several else 1


def _open(content: bytes, limits: ImageLimits) -> Image.Image:
    if not content:
        raise InvalidImage(f"The photograph is empty (0 bytes); send the bytes of {ACCEPTED}.", reason="IMAGE_EMPTY")
    if len(content) > limits.max_bytes:
        raise _too_large(len(content), limits)
    try:
        file = _File(content)
        image = Image.open(file, formats=FORMATS)
        file.reads_left = None
        width, height = image.size
    except Exception as error:  # as above: any exception of a plugin means that the header cannot be used
        raise faults.unopened(content) from error
    if width < 1 or height < 1:
        raise InvalidImage(
            f"The photograph has no pixels ({width} x {height}); export it again from its source.",
            reason="IMAGE_UNDECODABLE",
        )
    if width > limits.max_side or height > limits.max_side or width * height > limits.max_pixels:
        raise InvalidImage(
            f"The photograph has {width:,} x {height:,} pixels, more than the"
            f" {limits.max_pixels / 1e6:,.0f} million (and {limits.max_side:,} a side) accepted; send a smaller copy.",
            reason="IMAGE_TOO_LARGE",
        )
    return image


def _without_pixels(content: bytes) -> bytes:
    """Returns a PNG file less its pixels and any damage behind them: Pillow reads it to its end without decoding."""
    kept = [_PNG]
    place = len(_PNG)
    while place < len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        kind = content[place + 4 : place + 8]
        if end > len(content) or kind == _PNG_END[4:8]:
            break
        if kind != b"IDAT":
            kept.append(content[place:end])
        place = end
    return b"".join((*kept, _PNG_END))


def _tile_pixels(image: Image.Image) -> int:
    """Returns the pixels of a TIFF's tile, which is unpacked whole however little of it the picture takes; 0 without
    tiles."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    width, height = (image.tag_v2.get(tag, 0) for tag in (322, 323))
    return width * height if isinstance(width, int) and isinstance(height, int) else 0


def _too_large(size: int, limits: ImageLimits) -> InvalidImage:
    return InvalidImage(
        f"The photograph has {size / 2**20:,.1f} MiB, more than the"
        f" {limits.max_bytes / 2**20:,.0f} MiB accepted; save it as a JPEG of quality 90 or at fewer pixels.",
        reason="IMAGE_TOO_LARGE",
    )
