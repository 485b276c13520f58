"""Every kind of file that people send: either good pixels or one InvalidImage with the right reason."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from services.core import images, pixels
from services.core.errors import InvalidImage


def gradient(width: int = 64, height: int = 48) -> Image.Image:
    """Red grows to the right, green downwards: every orientation looks different."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, np.full_like(x, 40)], -1).astype(np.uint8))


def saved(image: Image.Image, fmt: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that names a size and brings hardly any pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + ihdr + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def jpeg_naming(width: int, height: int, **options: object) -> bytes:
    """A JPEG of a few pixels whose header names another size."""
    content = saved(gradient(), "JPEG", **options)
    marker = content.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    return content[: marker + 5] + struct.pack(">HH", height, width) + content[marker + 9 :]


def reason_of(content: bytes, **options: object) -> str:
    with pytest.raises(InvalidImage) as caught:
        images.decode(content, **options)  # type: ignore[arg-type]
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


# Good photographs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_decodes_each_format_to_rgb(fmt: str) -> None:
    image = images.decode(saved(gradient(), fmt))
    assert image.mode == "RGB"
    assert mean_difference(image, gradient()) < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_turns_a_photograph_upright(orientation: int, fmt: str) -> None:
    stored_from_upright = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    upright = gradient()
    stored = upright if stored_from_upright is None else upright.transpose(stored_from_upright)
    if fmt == "TIFF":
        content = saved(stored, fmt, tiffinfo={0x0112: orientation})
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = saved(stored, fmt, exif=exif)
    assert mean_difference(images.decode(content), upright) < 4


def test_lays_transparency_over_white() -> None:
    image = gradient().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    assert np.asarray(images.decode(saved(image, "PNG"))).min() == 255
    image.putalpha(Image.new("L", image.size, 128))
    half = np.asarray(images.decode(saved(image, "PNG")), np.float64)
    expected = np.asarray(gradient(), np.float64) * (128 / 255) + 255 * (127 / 255)
    assert np.abs(half - expected).max() <= 1.01


def test_lays_a_transparent_palette_and_a_transparent_colour_over_white() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 200, 10, 10])
    assert pixel(images.decode(saved(palette, "PNG", transparency=1)), 0, 0) == (255, 255, 255)
    assert pixel(images.decode(saved(palette, "PNG")), 0, 0) == (200, 10, 10)
    assert pixel(images.decode(saved(palette, "GIF", transparency=1)), 0, 0) == (255, 255, 255)
    plain = Image.new("RGB", (8, 8), (1, 2, 3))
    assert pixel(images.decode(saved(plain, "PNG", transparency=(1, 2, 3))), 0, 0) == (255, 255, 255)
    grey = Image.merge("LA", [Image.new("L", (4, 4), 100), Image.new("L", (4, 4), 0)])
    assert pixel(images.decode(saved(grey, "PNG")), 0, 0) == (255, 255, 255)


def test_scales_16_bit_grey_to_8() -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None, :].repeat(4, 0)
    for fmt in ("PNG", "TIFF"):
        decoded = np.asarray(images.decode(saved(Image.fromarray(ramp), fmt)))
        assert (decoded[0, :, 0] == np.arange(256)).all(), fmt
        assert (decoded[..., 0] == decoded[..., 2]).all()


def test_scales_integers_and_floats_of_tiff() -> None:
    wide = Image.fromarray(np.array([[0, 65535, 32768]], np.int32))
    assert np.asarray(images.decode(saved(wide, "TIFF")))[0, :, 0].tolist() == [0, 255, 128]
    real = Image.fromarray(np.array([[0.0, 1.0, 0.5, np.nan]], np.float32))
    assert np.asarray(images.decode(saved(real, "TIFF")))[0, :, 0].tolist() == [0, 255, 128, 0]


def test_reads_greyscale_and_one_bit() -> None:
    grey = gradient().convert("L")
    decoded = np.asarray(images.decode(saved(grey, "PNG")))
    assert (decoded == np.asarray(grey)[..., None]).all()
    one_bit = np.asarray(images.decode(saved(Image.new("1", (5, 5), 1), "PNG")))
    assert one_bit.shape == (5, 5, 3)
    assert (one_bit == 255).all()


def test_reads_cmyk_as_colours() -> None:
    for fmt in ("JPEG", "TIFF"):
        ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        red, green, blue = pixel(images.decode(saved(ink, fmt)), 8, 8)
        assert red > 180, fmt
        assert green < 60, fmt
        assert blue < 60, fmt


def test_reads_lab() -> None:
    lab = Image.new("LAB", (4, 4), (255, 128, 128))
    assert min(pixel(images.decode(saved(lab, "TIFF")), 0, 0)) > 245


def test_applies_the_colour_profile() -> None:
    # Linear-light values of mid grey look far darker unless the profile is applied.
    linear = Image.new("RGB", (8, 8), (55, 55, 55))
    profile = _linear_profile()
    plain = pixel(images.decode(saved(linear, "PNG")), 0, 0)
    managed = pixel(images.decode(saved(linear, "PNG", icc_profile=profile)), 0, 0)
    assert plain == (55, 55, 55)
    assert all(120 <= value <= 135 for value in managed), managed


def _linear_profile() -> bytes:
    """An RGB profile with sRGB's primaries and gamma 1, made from Pillow's sRGB by flattening its curves."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for tag in (b"rTRC", b"gTRC", b"bTRC"):
        entry = content.index(tag)
        offset = struct.unpack(">I", content[entry + 4 : entry + 8])[0]
        curve = struct.pack(">4sIHHi", b"para", 0, 0, 0, 65536)  # y = x ** 1.0
        content[offset : offset + len(curve)] = curve
    return bytes(content).replace("sRGB".encode("utf-16-be"), "Flat".encode("utf-16-be"))


@pytest.mark.parametrize("profile", [b"not a profile", b"\0" * 200, b""])
def test_ignores_a_damaged_colour_profile(profile: bytes) -> None:
    image = images.decode(saved(gradient(), "PNG", icc_profile=profile))
    assert mean_difference(image, gradient()) == 0


def test_ignores_the_profile_of_another_colour_space() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = gradient().convert("L")
    assert mean_difference(images.decode(saved(grey, "PNG", icc_profile=srgb)), grey.convert("RGB")) == 0


def test_takes_the_first_frame() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    for fmt in ("GIF", "PNG", "WEBP", "TIFF", "MPO"):
        options: dict[str, object] = {"save_all": True, "append_images": frames[1:]}
        if fmt == "WEBP":
            options["lossless"] = True
        red, green, blue = pixel(images.decode(saved(frames[0], fmt, **options)), 8, 8)
        assert red > 200, fmt
        assert green < 30, fmt
        assert blue < 30, fmt


@pytest.mark.parametrize(("short_side", "width"), [(None, 1600), (1200, 1600), (600, 800), (300, 400), (100, 200)])
def test_decodes_a_jpeg_at_the_scale_that_is_needed(short_side: int | None, width: int) -> None:
    image = images.decode(saved(gradient(1600, 1200), "JPEG"), short_side=short_side)
    assert image.size == (width, width * 3 // 4)
    assert short_side is None or min(image.size) >= short_side


def test_scales_the_first_picture_of_an_mpo() -> None:
    content = saved(gradient(1600, 1200), "MPO", save_all=True, append_images=[gradient(1600, 1200)])
    assert images.decode(content, short_side=300).size == (400, 300)


@given(width=st.integers(1, 900), height=st.integers(1, 900), short_side=st.integers(1, 700))
@settings(max_examples=40, deadline=None)
def test_never_scales_below_the_short_side(width: int, height: int, short_side: int) -> None:
    image = images.decode(saved(Image.new("RGB", (width, height)), "JPEG"), short_side=short_side)
    assert min(image.size) >= min(short_side, width, height)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
def test_a_damaged_exif_does_not_spoil_a_photograph() -> None:
    content = saved(gradient(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0")
    assert images.decode(content).size == (64, 48)


# Bad photographs ----------------------------------------------------------------------------------------------


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
        images.decode(content)
    assert caught.value.reason == "IMAGE_UNDECODABLE"


def test_refuses_formats_beyond_the_list() -> None:
    assert reason_of(saved(gradient(), "PPM")) == "IMAGE_UNDECODABLE"
    assert reason_of(saved(gradient(), "TGA")) == "IMAGE_UNDECODABLE"
    assert reason_of(saved(gradient(), "PDF")) == "IMAGE_UNDECODABLE"


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.03, 0.3, 0.5, 0.9])
def test_names_a_truncated_file(fmt: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(7).integers(0, 256, (96, 128, 3), np.uint8))
    content = saved(noise, fmt)
    assert reason_of(content[: int(len(content) * share)]) == "IMAGE_TRUNCATED"


def test_names_a_truncated_progressive_and_a_scaled_jpeg() -> None:
    content = saved(gradient(800, 600), "JPEG", progressive=True)
    assert reason_of(content[: len(content) // 2]) == "IMAGE_TRUNCATED"
    assert reason_of(saved(gradient(800, 600), "JPEG")[:2000], short_side=100) == "IMAGE_TRUNCATED"


def test_refuses_bombs_from_the_header() -> None:
    assert reason_of(png_header(60_000, 60_000)) == "IMAGE_TOO_LARGE"
    assert reason_of(jpeg_naming(60_000, 60_000)) == "IMAGE_TOO_LARGE"
    assert reason_of(jpeg_naming(60_000, 60_000), short_side=672) == "IMAGE_TOO_LARGE"
    assert reason_of(png_header(30_001, 2)) == "IMAGE_TOO_LARGE"
    assert reason_of(png_header(2**31 - 1, 2**31 - 1)) == "IMAGE_TOO_LARGE"
    assert reason_of(saved(Image.new("1", (12_000, 12_000)), "TIFF", compression="group4")) == "IMAGE_TOO_LARGE"


def test_counts_what_decoding_holds_in_memory() -> None:
    # Within the header's limit, beyond the memory's unless read at a reduced scale.
    limits = images.ImageLimits(max_pixels=2_000_000, max_decoded_pixels=1_000_000)
    baseline = saved(gradient(1500, 1000), "JPEG")
    assert reason_of(baseline, limits=limits) == "IMAGE_TOO_LARGE"
    assert images.decode(baseline, short_side=300, limits=limits).size == (750, 500)
    assert reason_of(saved(gradient(1500, 1000), "JPEG", progressive=True), short_side=300, limits=limits) == (
        "IMAGE_TOO_LARGE"
    )
    assert reason_of(saved(gradient(1500, 1000), "PNG"), short_side=300, limits=limits) == "IMAGE_TOO_LARGE"


def test_refuses_no_pixels() -> None:
    assert reason_of(png_header(0, 0)) == "IMAGE_UNDECODABLE"
    assert reason_of(jpeg_naming(0, 0)) == "IMAGE_UNDECODABLE"
    gif = bytearray(saved(Image.new("P", (1, 1)), "GIF"))
    gif[6:10] = b"\0\0\0\0"
    with pytest.raises(InvalidImage):
        images.decode(bytes(gif[:13]) + b";")


def test_refuses_300_megabytes_unopened() -> None:
    assert reason_of(bytes(300 * 1024 * 1024)) == "IMAGE_TOO_LARGE"


def test_reads_no_file_beyond_the_limits_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    # A hole of 8 GiB: it takes no space on the disk, and would take all the memory if it were read.
    with path.open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(InvalidImage, match=r"has 8,192\.0 MiB, more than the 15 MiB accepted") as refused:
        images.read_file(path)
    assert refused.value.reason == "IMAGE_TOO_LARGE"
    path.write_bytes(b"12345678")
    assert images.read_file(path, limits=images.ImageLimits(max_bytes=8)) == b"12345678"
    with pytest.raises(InvalidImage):
        images.read_file(path, limits=images.ImageLimits(max_bytes=7))


def test_limits_are_inclusive() -> None:
    content = saved(gradient(40, 30), "PNG")
    exact = images.ImageLimits(max_bytes=len(content), max_pixels=1200, max_side=40, max_decoded_pixels=1200)
    assert images.decode(content, limits=exact).size == (40, 30)


@given(seed=st.integers(0, 2**32 - 1), fmt=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "MPO"]))
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_gives_pixels_or_one_sentence(seed: int, fmt: str) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(saved(gradient(), fmt))
    for position in rng.integers(0, len(content), rng.integers(1, 12)):
        content[position] = rng.integers(0, 256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outcome = images.decode(bytes(content), limits=images.ImageLimits(max_decoded_pixels=4_000_000)).mode
        except InvalidImage as error:
            outcome = error.reason
    assert outcome in ("RGB", "IMAGE_UNDECODABLE", "IMAGE_TRUNCATED", "IMAGE_TOO_LARGE")


def test_nothing_is_printed_for_bad_files(tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0"
    tiff = saved(gradient(), "TIFF", compression="tiff_lzw")
    files = {
        "exif": saved(gradient(), "JPEG", exif=exif),
        "cut.tif": tiff[: len(tiff) // 2],
        "bomb": png_header(60_000, 60_000),
        "large": saved(Image.new("1", (9_900, 9_900)), "TIFF", compression="group4"),
        "avif": b"\0\0\0\x18ftypavif\0\0\0\0mif1",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    program = (
        "import sys, pathlib\n"
        "from services.core import images\n"
        "from services.core.errors import InvalidImage\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: images.decode(path.read_bytes())\n"
        "    except InvalidImage: pass\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout + ended.stderr == ""


# Not resource's ru_maxrss, which a new process takes over from the one that started it.
DECODED: Final = """
import pathlib, re, sys
from services.core import images, pixels
def greatest():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
content = pathlib.Path(sys.argv[1]).read_bytes()
before = greatest()
image = images.decode(content, short_side=672)
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
    path.write_bytes(saved(Image.linear_gradient("L").convert("RGB").resize((8485, 5657)), "JPEG"))
    height, _, kilobytes = decoded_alone(path)
    assert height == 708
    assert kilobytes < 20_000


def test_what_lies_over_white_takes_no_second_picture_of_memory(tmp_path: Path) -> None:
    """16 million pixels with transparency: 64 MB as they are, 64 in colours alone, and 16 each way of the alpha."""
    path = tmp_path / "large.png"
    path.write_bytes(saved(Image.new("RGBA", (4000, 4000), (10, 200, 30, 128)), "PNG"))
    _, colour, kilobytes = decoded_alone(path)
    assert colour == [132, 227, 142]
    assert kilobytes < 180_000


@pytest.mark.parametrize("large", [False, True])
def test_large_photographs_are_decoded_one_at_a_time(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(gradient(), "PNG")
    monkeypatch.setattr(images, "LARGE", 0 if large else 64 * 48)
    free: list[bool] = []

    def look(image: Image.Image) -> Image.Image:
        free.append(images._one_large.acquire(blocking=False))
        if free[-1]:
            images._one_large.release()
        return image

    monkeypatch.setattr(pixels, "upright_srgb", look)
    images.decode(content)
    assert free == [not large]
    with pytest.raises(InvalidImage):
        images.decode(content[:100])
    assert not images._one_large.locked()


# The rest -----------------------------------------------------------------------------------------------------


def test_decodes_the_same_in_many_threads() -> None:
    contents = [saved(gradient(), "PNG", icc_profile=_linear_profile()), saved(gradient(), "JPEG"), b"broken"]

    def outcome(content: bytes) -> bytes:
        try:
            return images.decode(content).tobytes()
        except InvalidImage as error:
            return error.reason.encode()

    alone = [outcome(content) for content in contents]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, contents * 20)) == alone * 20


def test_sha256_is_that_of_the_bytes() -> None:
    assert images.sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_thumbnail_is_small_and_carries_no_metadata() -> None:
    photograph = gradient(1000, 600)
    photograph.info["exif"] = b"Exif\0\0secret place"
    thumbnail = images.thumbnail_jpeg(photograph)
    with Image.open(io.BytesIO(thumbnail)) as opened:
        assert opened.format == "JPEG"
        assert opened.size == (256, 154) or opened.size == (256, 153)
    assert b"secret" not in thumbnail
    with Image.open(io.BytesIO(images.thumbnail_jpeg(gradient(20, 10)))) as opened:
        assert opened.size == (20, 10)


def test_the_formats_are_those_with_file_name_endings() -> None:
    known = Image.registered_extensions()
    assert {known[ending] for ending in images.EXTENSIONS if ending in known} == {
        *images.FORMATS,
        images.MULTI_PICTURE,
    }
