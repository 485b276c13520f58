"""Every kind of photograph that people send gives good pixels."""

from __future__ import annotations

import io
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from services.core.errors import InvalidImage
from services.core.images import reading
from tests.pictures import encoded
from tests.unit.core.images.pictures import TURNS, gradient, mean_difference, pixel


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_decodes_each_format_to_rgb(fmt: str) -> None:
    image = reading.decode(encoded(gradient(), fmt))
    assert image.mode == "RGB"
    assert mean_difference(image, gradient()) < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_turns_a_photograph_upright(orientation: int, fmt: str) -> None:
    upright = gradient()
    stored = upright.transpose(TURNS[orientation]) if orientation in TURNS else upright
    if fmt == "TIFF":
        content = encoded(stored, fmt, tiffinfo={0x0112: orientation})
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(stored, fmt, exif=exif)
    assert mean_difference(reading.decode(content), upright) < 4


@pytest.mark.parametrize("orientation", [*range(10), 65_535])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_names_the_upright_size(orientation: int, fmt: str) -> None:
    exif = gradient().getexif()
    exif[0x0112] = orientation
    content = encoded(gradient(), fmt, exif=exif)
    assert reading.upright_size(content) == reading.decode(content).size


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_names_the_upright_size_by_xmp_alone(fmt: str) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    options: dict[str, object] = {"xmp": xmp}
    if fmt == "PNG":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())  # type: ignore[attr-defined]
    if fmt == "TIFF":
        options = {"tiffinfo": {700: xmp}}
    content = encoded(gradient(), fmt, **options)
    assert reading.upright_size(content) == reading.decode(content).size == (48, 64)


@pytest.mark.parametrize("behind", [False, True])
def test_names_the_size_of_a_png_without_decoding_it(behind: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = gradient().getexif()
    exif[0x0112] = 6
    content = encoded(gradient(), "PNG", exif=exif)
    if behind:
        # As exiftool writes it: after the pixels.
        start = content.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        content = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    assert reading.decode(content).size == reading.decode(content[:-12]).size == (48, 64)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: pytest.fail("it was decoded"))
    assert reading.upright_size(content) == (48, 64)
    assert reading.upright_size(content[:-12]) == (48, 64), "its end is missing, which decoding forgives"
    assert reading.upright_size(encoded(gradient(), "PNG")) == (64, 48)


def test_lays_transparency_over_white() -> None:
    image = gradient().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    assert np.asarray(reading.decode(encoded(image, "PNG"))).min() == 255
    image.putalpha(Image.new("L", image.size, 128))
    half = np.asarray(reading.decode(encoded(image, "PNG")), np.float64)
    expected = np.asarray(gradient(), np.float64) * (128 / 255) + 255 * (127 / 255)
    assert np.abs(half - expected).max() <= 1.01


def test_lays_a_transparent_palette_and_a_transparent_colour_over_white() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 200, 10, 10])
    assert pixel(reading.decode(encoded(palette, "PNG", transparency=1)), 0, 0) == (255, 255, 255)
    assert pixel(reading.decode(encoded(palette, "PNG")), 0, 0) == (200, 10, 10)
    assert pixel(reading.decode(encoded(palette, "GIF", transparency=1)), 0, 0) == (255, 255, 255)
    plain = Image.new("RGB", (8, 8), (1, 2, 3))
    assert pixel(reading.decode(encoded(plain, "PNG", transparency=(1, 2, 3))), 0, 0) == (255, 255, 255)
    grey = Image.merge("LA", [Image.new("L", (4, 4), 100), Image.new("L", (4, 4), 0)])
    assert pixel(reading.decode(encoded(grey, "PNG")), 0, 0) == (255, 255, 255)


def test_scales_16_bit_grey_to_8() -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None, :].repeat(4, 0)
    for fmt in ("PNG", "TIFF"):
        decoded = np.asarray(reading.decode(encoded(Image.fromarray(ramp), fmt)))
        assert (decoded[0, :, 0] == np.arange(256)).all(), fmt
        assert (decoded[..., 0] == decoded[..., 2]).all()


def test_scales_integers_and_floats_of_tiff() -> None:
    wide = Image.fromarray(np.array([[0, 65535, 32768]], np.int32))
    assert np.asarray(reading.decode(encoded(wide, "TIFF")))[0, :, 0].tolist() == [0, 255, 128]
    real = Image.fromarray(np.array([[0.0, 1.0, 0.5, np.nan]], np.float32))
    assert np.asarray(reading.decode(encoded(real, "TIFF")))[0, :, 0].tolist() == [0, 255, 128, 0]


def test_reads_greyscale_and_one_bit() -> None:
    grey = gradient().convert("L")
    decoded = np.asarray(reading.decode(encoded(grey, "PNG")))
    assert (decoded == np.asarray(grey)[..., None]).all()
    one_bit = np.asarray(reading.decode(encoded(Image.new("1", (5, 5), 1), "PNG")))
    assert one_bit.shape == (5, 5, 3)
    assert (one_bit == 255).all()


def test_reads_cmyk_as_colours() -> None:
    for fmt in ("JPEG", "TIFF"):
        ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        red, green, blue = pixel(reading.decode(encoded(ink, fmt)), 8, 8)
        assert red > 180, fmt
        assert green < 60, fmt
        assert blue < 60, fmt


def test_reads_lab() -> None:
    lab = Image.new("LAB", (4, 4), (255, 128, 128))
    assert min(pixel(reading.decode(encoded(lab, "TIFF")), 0, 0)) > 245


def test_applies_the_colour_profile() -> None:
    # Linear-light values of mid grey look far darker unless the profile is applied.
    linear = Image.new("RGB", (8, 8), (55, 55, 55))
    profile = _linear_profile()
    plain = pixel(reading.decode(encoded(linear, "PNG")), 0, 0)
    managed = pixel(reading.decode(encoded(linear, "PNG", icc_profile=profile)), 0, 0)
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
    image = reading.decode(encoded(gradient(), "PNG", icc_profile=profile))
    assert mean_difference(image, gradient()) == 0


def test_ignores_the_profile_of_another_colour_space() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = gradient().convert("L")
    assert mean_difference(reading.decode(encoded(grey, "PNG", icc_profile=srgb)), grey.convert("RGB")) == 0


def test_takes_the_first_frame() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    for fmt in ("GIF", "PNG", "WEBP", "TIFF", "MPO"):
        options: dict[str, object] = {"save_all": True, "append_images": frames[1:]}
        if fmt == "WEBP":
            options["lossless"] = True
        red, green, blue = pixel(reading.decode(encoded(frames[0], fmt, **options)), 8, 8)
        assert red > 200, fmt
        assert green < 30, fmt
        assert blue < 30, fmt


@pytest.mark.parametrize(("short_side", "width"), [(None, 1600), (1200, 1600), (600, 800), (300, 400), (100, 200)])
def test_decodes_a_jpeg_at_the_scale_that_is_needed(short_side: int | None, width: int) -> None:
    image = reading.decode(encoded(gradient(1600, 1200), "JPEG"), short_side=short_side)
    assert image.size == (width, width * 3 // 4)
    assert short_side is None or min(image.size) >= short_side


def test_scales_the_first_picture_of_an_mpo() -> None:
    content = encoded(gradient(1600, 1200), "MPO", save_all=True, append_images=[gradient(1600, 1200)])
    assert reading.decode(content, short_side=300).size == (400, 300)


@given(width=st.integers(1, 900), height=st.integers(1, 900), short_side=st.integers(1, 700))
@settings(max_examples=40, deadline=None)
def test_never_scales_below_the_short_side(width: int, height: int, short_side: int) -> None:
    image = reading.decode(encoded(Image.new("RGB", (width, height)), "JPEG"), short_side=short_side)
    assert min(image.size) >= min(short_side, width, height)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
def test_a_damaged_exif_does_not_spoil_a_photograph() -> None:
    content = encoded(gradient(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0")
    assert reading.decode(content).size == (64, 48)


def test_decodes_the_same_in_many_threads() -> None:
    contents = [encoded(gradient(), "PNG", icc_profile=_linear_profile()), encoded(gradient(), "JPEG"), b"broken"]

    def outcome(content: bytes) -> bytes:
        try:
            return reading.decode(content).tobytes()
        except InvalidImage as error:
            return error.reason.encode()

    alone = [outcome(content) for content in contents]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, contents * 20)) == alone * 20


def test_sha256_is_that_of_the_bytes() -> None:
    assert reading.sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_thumbnail_is_small_and_carries_no_metadata() -> None:
    photograph = gradient(1000, 600)
    photograph.info["exif"] = b"Exif\0\0secret place"
    thumbnail = reading.thumbnail_jpeg(photograph)
    with Image.open(io.BytesIO(thumbnail)) as opened:
        assert opened.format == "JPEG"
        assert opened.size == (256, 154) or opened.size == (256, 153)
    assert b"secret" not in thumbnail
    with Image.open(io.BytesIO(reading.thumbnail_jpeg(gradient(20, 10)))) as opened:
        assert opened.size == (20, 10)


def test_the_formats_are_those_with_file_name_endings() -> None:
    known = Image.registered_extensions()
    assert {known[ending] for ending in reading.EXTENSIONS if ending in known} == {
        *reading.FORMATS,
        reading.MULTI_PICTURE,
    }
