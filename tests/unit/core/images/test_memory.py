"""Decoding takes the memory of what is kept, whatever the file says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from PIL import Image

from services.core.errors import InvalidImage
from services.core.images import pixels, reading
from tests.pictures import encoded
from tests.unit.core.images.pictures import gradient

# Not resource's ru_maxrss, which a new process takes over from the one that started it.
DECODED: Final = """
import pathlib, re, sys
from services.core.images import pixels, reading
def greatest():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
content = pathlib.Path(sys.argv[1]).read_bytes()
before = greatest()
image = reading.decode(content, short_side=672)
print(image.height, *image.getpixel((300, 300)), greatest() - before)
"""


def decoded_alone(path: Path) -> tuple[int, list[int], int]:
    """Returns height, a pixel, and the kilobytes that decoding a file took, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", DECODED, str(path)], capture_output=True, text=True, check=True)
    height, *colour, kilobytes = map(int, done.stdout.split())
    return height, colour, kilobytes


def test_a_large_jpeg_takes_the_memory_of_what_is_kept_of_it(tmp_path: Path) -> None:
    """48 million pixels are 192 MB whole; at an eighth of the size they are 3."""
    path = tmp_path / "large.jpg"
    path.write_bytes(encoded(Image.linear_gradient("L").convert("RGB").resize((8485, 5657)), "JPEG"))
    height, _, kilobytes = decoded_alone(path)
    assert height == 708
    assert kilobytes < 20_000


def test_what_lies_over_white_takes_no_second_picture_of_memory(tmp_path: Path) -> None:
    """16 million pixels with transparency: 64 MB as they are, 64 in colours alone, and 16 each way of the alpha."""
    path = tmp_path / "large.png"
    path.write_bytes(encoded(Image.new("RGBA", (4000, 4000), (10, 200, 30, 128)), "PNG"))
    _, colour, kilobytes = decoded_alone(path)
    assert colour == [132, 227, 142]
    assert kilobytes < 180_000


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_many_bits_a_pixel_take_no_second_picture_of_memory(tmp_path: Path, kind: type[np.number]) -> None:
    """16 million pixels of 2 or 4 bytes, and 4 bytes each in colours."""
    path = tmp_path / "large.tif"
    grey = np.full((4000, 4000), 0.5 if kind is np.float32 else 128 * 257).astype(kind)
    path.write_bytes(encoded(Image.fromarray(grey), "TIFF", compression="tiff_deflate"))
    _, colour, kilobytes = decoded_alone(path)
    assert colour == [128, 128, 128]
    assert kilobytes < 180_000


@pytest.mark.parametrize("large", [False, True])
def test_large_photographs_are_decoded_one_at_a_time(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(gradient(), "PNG")
    monkeypatch.setattr(reading, "LARGE", 0 if large else 64 * 48)
    free: list[bool] = []

    def look(image: Image.Image) -> Image.Image:
        free.append(reading._one_large.acquire(blocking=False))
        if free[-1]:
            reading._one_large.release()
        return image

    monkeypatch.setattr(pixels, "upright_srgb", look)
    reading.decode(content)
    assert free == [not large]
    with pytest.raises(InvalidImage):
        reading.decode(content[:100])
    assert not reading._one_large.locked()
