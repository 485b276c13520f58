"""The encoder's input: what open_clip's own transform gives where that is right, and the true picture where not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from services.core.errors import ConfigurationError, InvalidImage
from services.core.models import torchvision_shim
from services.embedder import preprocessing
from services.embedder.preprocessing import Preprocessing
from tests.pictures import encoded, picture

MEAN = (0.5, 0.4, 0.3)
STD = (0.2, 0.3, 0.4)
SIZES = [(60, 40), (40, 60), (50, 50), (201, 67), (33, 500), (32, 33), (20, 12)]


def reference_pixels(
    image: Image.Image, size: int | tuple[int, int], resize_mode: str, interpolation: str
) -> np.ndarray:
    """Returns what open_clip's transform gives, brought back to 0..255 (float32, [height, width, 3])."""
    torchvision_shim.install()
    from open_clip.transform import image_transform

    transform = image_transform(
        size, is_train=False, mean=MEAN, std=STD, resize_mode=resize_mode, interpolation=interpolation, fill_color=7
    )
    normalised = transform(image).permute(1, 2, 0).numpy()
    values: np.ndarray = (normalised * np.asarray(STD) + np.asarray(MEAN)) * 255
    return values


def made(size: int | tuple[int, int], resize_mode: str, interpolation: str) -> Preprocessing:
    config = {"mean": MEAN, "std": STD, "resize_mode": resize_mode, "interpolation": interpolation, "fill_color": 7}
    return Preprocessing.of(size, config)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [32, (32, 48)], ids=["square", "oblong"])
def test_pixels_are_those_of_open_clip(
    size: int | tuple[int, int], resize_mode: str, interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rounding may decide otherwise, and a large photograph is reduced by boxes first."""
    if size == (32, 48) and resize_mode == "shortest":
        # open_clip itself forgets the interpolation there.
        interpolation = "bicubic"
    prepare = made(size, resize_mode, interpolation)
    for seed, shape in enumerate(SIZES):
        image = picture(seed, shape)
        pixels = prepare.pixels(image)
        assert pixels.dtype == np.uint8
        assert pixels.shape == (prepare.height, prepare.width, 3)
        assert pixels.flags.c_contiguous
        expected = reference_pixels(image, size, resize_mode, interpolation)
        np.testing.assert_allclose(pixels, expected, atol=2 + 1e-3, err_msg=str(shape))
        assert np.abs(pixels - expected).mean() < 0.2, shape
        with monkeypatch.context() as all_are_large:
            all_are_large.setattr(preprocessing, "_LARGE", 0)
            assert np.abs(prepare.pixels(image) - expected).mean() < 0.7, shape


def test_a_scaled_jpeg_gives_the_pixels_of_the_whole_one() -> None:
    """Held against decoding at full size and resizing without shortcuts; on photographs see tests/bench."""
    prepare = made(32, "shortest", "bicubic")
    for seed in range(5):
        image = picture(seed, (1200, 800))
        content = encoded(image, "JPEG", quality=90)
        photograph = prepare.photograph(content)
        assert min(photograph.size) >= 96
        assert photograph.width < 1200
        full = prepare.pixels(image).astype(np.float64)
        scaled = prepare.pixels(photograph).astype(np.float64)
        assert np.abs(full - scaled).mean() < 1.0


def test_a_rotated_photograph_is_upright() -> None:
    prepare = made(32, "squash", "bicubic")
    image = picture(1, (90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    upright = prepare.pixels(prepare.photograph(turned))
    np.testing.assert_array_equal(upright, prepare.pixels(image))


def test_what_is_no_photograph_is_refused() -> None:
    with pytest.raises(InvalidImage) as refused:
        made(32, "shortest", "bicubic").photograph(b"")
    assert refused.value.reason == "IMAGE_EMPTY"


def test_a_configuration_that_open_clip_does_not_know_is_refused() -> None:
    for config in ({"interpolation": "nearest"}, {"resize_mode": "stretch"}, {"mean": [1.0, 2.0]}):
        with pytest.raises(ConfigurationError, match=r"open_clip_config\.json"):
            Preprocessing.of(32, config)


def test_an_empty_configuration_means_clip_as_published() -> None:
    clip = Preprocessing.of(224, {})
    assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert clip.std == pytest.approx((0.26862954, 0.26130258, 0.27577711))
    assert (clip.resize_mode, clip.interpolation) == ("shortest", "bicubic")
    assert Preprocessing.of(224, {"mean": 0.5, "std": 0.5}).mean == (0.5, 0.5, 0.5)
