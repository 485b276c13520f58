"""What is no photograph, or too much of one, gives one InvalidImage with the right reason."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from services.core.errors import InvalidImage
from services.core.images import reading
from tests.pictures import encoded
from tests.unit.core.images.pictures import (
    gradient,
    jpeg_naming,
    jpeg_of_planes,
    jpeg_of_scans,
    png_header,
    reason_of,
    tiled_tiff,
)


def test_refuses_an_empty_file() -> None:
    assert reason_of(b"") == "IMAGE_EMPTY"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"hello, this is text", "not a photograph"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "text document"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"\0" * 1000, "not a photograph"),
    ],
)
def test_names_what_is_not_a_photograph(content: bytes, word: str) -> None:
    with pytest.raises(InvalidImage, match=word) as caught:
        reading.decode(content)
    assert caught.value.reason == "IMAGE_UNDECODABLE"


def test_refuses_formats_beyond_the_list() -> None:
    assert reason_of(encoded(gradient(), "PPM")) == "IMAGE_UNDECODABLE"
    assert reason_of(encoded(gradient(), "TGA")) == "IMAGE_UNDECODABLE"
    assert reason_of(encoded(gradient(), "PDF")) == "IMAGE_UNDECODABLE"


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.03, 0.3, 0.5, 0.9])
def test_names_a_truncated_file(fmt: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(7).integers(0, 256, (96, 128, 3), np.uint8))
    content = encoded(noise, fmt)
    assert reason_of(content[: int(len(content) * share)]) == "IMAGE_TRUNCATED"


def test_names_a_truncated_progressive_and_a_scaled_jpeg() -> None:
    content = encoded(gradient(800, 600), "JPEG", progressive=True)
    assert reason_of(content[: len(content) // 2]) == "IMAGE_TRUNCATED"
    assert reason_of(encoded(gradient(800, 600), "JPEG")[:2000], short_side=100) == "IMAGE_TRUNCATED"


def test_refuses_bombs_from_the_header() -> None:
    assert reason_of(png_header(60_000, 60_000)) == "IMAGE_TOO_LARGE"
    assert reason_of(jpeg_naming(60_000, 60_000)) == "IMAGE_TOO_LARGE"
    assert reason_of(jpeg_naming(60_000, 60_000), short_side=672) == "IMAGE_TOO_LARGE"
    assert reason_of(png_header(30_001, 2)) == "IMAGE_TOO_LARGE"
    assert reason_of(png_header(2**31 - 1, 2**31 - 1)) == "IMAGE_TOO_LARGE"
    assert reason_of(encoded(Image.new("1", (12_000, 12_000)), "TIFF", compression="group4")) == "IMAGE_TOO_LARGE"


def test_refuses_a_tile_that_is_larger_than_its_picture_may_be() -> None:
    """It is unpacked whole, however little of it the picture takes: 15 MiB would become as many GiB."""
    limits = reading.ImageLimits(max_decoded_pixels=10_000)
    assert reading.decode(tiled_tiff(64, 96), limits=limits).size == (64, 64)
    assert reason_of(tiled_tiff(64, 112), limits=limits) == "IMAGE_TOO_LARGE"


def test_counts_what_decoding_holds_in_memory() -> None:
    # Within the header's limit, beyond the memory's unless read at a reduced scale.
    limits = reading.ImageLimits(max_pixels=2_000_000, max_decoded_pixels=1_000_000)
    baseline = encoded(gradient(1500, 1000), "JPEG")
    assert reason_of(baseline, limits=limits) == "IMAGE_TOO_LARGE"
    assert reading.decode(baseline, short_side=300, limits=limits).size == (750, 500)
    assert reason_of(encoded(gradient(1500, 1000), "JPEG", progressive=True), short_side=300, limits=limits) == (
        "IMAGE_TOO_LARGE"
    )
    assert reason_of(encoded(gradient(1500, 1000), "PNG"), short_side=300, limits=limits) == "IMAGE_TOO_LARGE"


def test_counts_a_jpeg_of_several_scans_whole() -> None:
    content = jpeg_of_planes(1500, 1000)
    limits = reading.ImageLimits(max_pixels=2_000_000, max_decoded_pixels=1_000_000)
    assert reading.decode(content, short_side=300).size == (750, 500)
    assert reason_of(content, short_side=300, limits=limits) == "IMAGE_TOO_LARGE"


def test_refuses_a_jpeg_that_goes_over_its_pixels_without_end() -> None:
    # 15 MiB have room for a million and a half empty scans, each of which takes a hundredth of a second.
    assert reading.decode(jpeg_of_scans(64, 48, 100)).size == (64, 48)
    assert reason_of(jpeg_of_scans(8000, 8000, 101)) == "IMAGE_TOO_LARGE"
    assert reason_of(jpeg_of_scans(8000, 8000, 101), short_side=300) == "IMAGE_TOO_LARGE"
    limits = reading.ImageLimits(max_scanned_pixels=64 * 48)
    assert reading.decode(encoded(gradient(), "JPEG"), limits=limits).size == (64, 48)


@pytest.mark.parametrize(
    ("fmt", "after", "piece"),
    [
        ("JPEG", 2, b"\xff\xe1\0\x0aExif\0\0ab"),
        ("JPEG", 2, b"\xff"),
        ("PNG", 33, b"\0\0\0\0teSt\x4d\xfb\x5a\xae"),
        ("GIF", 781, b"!\xfe\1a\0"),
    ],
)
def test_refuses_a_header_in_pieces_without_end(fmt: str, after: int, piece: bytes) -> None:
    content = encoded(Image.effect_noise((64, 48), 64), fmt)
    few, many = (content[:after] + piece * times + content[after:] for times in (100, 20_000))
    assert reading.decode(few).size == (64, 48)
    assert reason_of(many) == "IMAGE_UNDECODABLE"


def test_refuses_no_pixels() -> None:
    assert reason_of(png_header(0, 0)) == "IMAGE_UNDECODABLE"
    assert reason_of(jpeg_naming(0, 0)) == "IMAGE_UNDECODABLE"
    gif = bytearray(encoded(Image.new("P", (1, 1)), "GIF"))
    gif[6:10] = b"\0\0\0\0"
    with pytest.raises(InvalidImage):
        reading.decode(bytes(gif[:13]) + b";")


def test_refuses_300_megabytes_unopened() -> None:
    assert reason_of(bytes(300 * 1024 * 1024)) == "IMAGE_TOO_LARGE"


def test_reads_no_file_beyond_the_limits_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    # A hole of 8 GiB: it takes no space on the disk, and would take all the memory if it were read.
    with path.open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(InvalidImage, match=r"has 8,192\.0 MiB, more than the 15 MiB accepted") as refused:
        reading.read_file(path)
    assert refused.value.reason == "IMAGE_TOO_LARGE"
    path.write_bytes(b"12345678")
    assert reading.read_file(path, limits=reading.ImageLimits(max_bytes=8)) == b"12345678"
    with pytest.raises(InvalidImage):
        reading.read_file(path, limits=reading.ImageLimits(max_bytes=7))


def test_limits_are_inclusive() -> None:
    content = encoded(gradient(40, 30), "PNG")
    exact = reading.ImageLimits(max_bytes=len(content), max_pixels=1200, max_side=40, max_decoded_pixels=1200)
    assert reading.decode(content, limits=exact).size == (40, 30)


@given(seed=st.integers(0, 2**32 - 1), fmt=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "MPO"]))
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_gives_pixels_or_one_sentence(seed: int, fmt: str) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(encoded(gradient(), fmt))
    for position in rng.integers(0, len(content), rng.integers(1, 12)):
        content[position] = rng.integers(0, 256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outcome = reading.decode(bytes(content), limits=reading.ImageLimits(max_decoded_pixels=4_000_000)).mode
        except InvalidImage as error:
            outcome = error.reason
    assert outcome in ("RGB", "IMAGE_UNDECODABLE", "IMAGE_TRUNCATED", "IMAGE_TOO_LARGE")


def test_nothing_is_printed_for_bad_files(tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0"
    tiff = encoded(gradient(), "TIFF", compression="tiff_lzw")
    files = {
        "exif": encoded(gradient(), "JPEG", exif=exif),
        "cut.tif": tiff[: len(tiff) // 2],
        "bomb": png_header(60_000, 60_000),
        "large": encoded(Image.new("1", (9_900, 9_900)), "TIFF", compression="group4"),
        "avif": b"\0\0\0\x18ftypavif\0\0\0\0mif1",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    program = (
        "import sys, pathlib\n"
        "from services.core.images import reading\n"
        "from services.core.errors import InvalidImage\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: reading.decode(path.read_bytes())\n"
        "    except InvalidImage: pass\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout + ended.stderr == ""
