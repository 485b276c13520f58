"""Pictures that are made for the tests of decoding, and what is asked of them."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from services.core.errors import InvalidImage
from services.core.images import reading
from tests.pictures import encoded

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera stores a photograph that EXIF's orientation brings upright."""


def gradient(width: int = 64, height: int = 48) -> Image.Image:
    """Red grows to the right, green downwards: every orientation looks different."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, np.full_like(x, 40)], -1).astype(np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that names a size and brings hardly any pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + ihdr + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def jpeg_naming(width: int, height: int, **options: object) -> bytes:
    """A JPEG of a few pixels whose header names another size."""
    content = encoded(gradient(), "JPEG", **options)
    marker = content.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    return content[: marker + 5] + struct.pack(">HH", height, width) + content[marker + 9 :]


def tiled_tiff(side: int, tile: int) -> bytes:
    """A grey TIFF of `side` x `side` pixels in one compressed tile of `tile` x `tile`."""
    pixels = zlib.compress(bytes(tile * tile))
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + directory


def reason_of(content: bytes, **options: object) -> str:
    with pytest.raises(InvalidImage) as caught:
        reading.decode(content, **options)  # type: ignore[arg-type]
    message = caught.value.message
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 300
    return caught.value.reason


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, int, int]:
    red, green, blue = np.asarray(image)[y, x].tolist()
    return red, green, blue


def mean_difference(a: Image.Image, b: Image.Image) -> float:
    assert a.size == b.size
    return float(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).mean())


# Tables of a JPEG that hold one symbol each, of one bit.
_TABLES = (
    b"\xff\xdb\0\x43\0"
    + b"\1" * 64
    + b"".join(b"\xff\xc4\0\x14" + kind + b"\1" + bytes(16) for kind in (b"\0", b"\x10"))
)


def jpeg_of_scans(width: int, height: int, scans: int) -> bytes:
    """A grey progressive JPEG: one scan of its means, and all others empty, ten bytes each."""
    frame = b"\xff\xc2\0\x0b\x08" + struct.pack(">HH", height, width) + b"\1\1\x11\0"
    means = b"\xff\xda\0\x08\1\1\0\0\0\0" + bytes(-(-width // 8) * -(-height // 8))
    return b"\xff\xd8" + _TABLES + frame + means + b"\xff\xda\0\x08\1\1\0\1\x3f\0" * (scans - 1) + b"\xff\xd9"


def jpeg_of_planes(width: int, height: int) -> bytes:
    """A JPEG that is not progressive, whose three channels come one after the other."""
    frame = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\3\1\x11\0\2\x11\0\3\x11\0"
    blocks = bytes(-(-width // 8) * -(-height // 8))
    planes = (b"\xff\xda\0\x08\1" + plane + b"\0\0\x3f\0" + blocks for plane in (b"\1", b"\2", b"\3"))
    return b"\xff\xd8" + _TABLES + frame + b"".join(planes) + b"\xff\xd9"
