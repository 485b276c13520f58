"""Drawn borders are found and left out; plain backgrounds are none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from services.scorer import perturb
from services.scorer.border import inside
from services.scorer.comparison import note
from services.scorer.references import scores_from_json, scores_to_json
from services.scorer.scoring import Picture
from tests.unit.scorer.pictures import COLOURFUL, Pixels, disc, noise, photograph, solid
from tests.unit.scorer.seeing import SCORER, taken

WHITE, BLACK, PAPER = (255, 255, 255), (0, 0, 0), (236, 230, 215)


def _bars(pixels: Pixels, across: int, down: int) -> Pixels:
    return np.asarray(ImageOps.expand(Image.fromarray(pixels), (across, down), BLACK))


def _lined(pixels: Pixels, lines: tuple[tuple[int, int, int], ...]) -> Pixels:
    """A black frame with lines of one pixel in it, from the outside inwards."""
    framed = Image.fromarray(pixels)
    for color in reversed(lines):
        framed = ImageOps.expand(framed, 1, color)
    return np.asarray(ImageOps.expand(framed, 12, BLACK))


def _paper(pixels: Pixels) -> Pixels:
    """A mat of paper, with its grain."""
    sheet = perturb.mat(pixels, PAPER)
    grain = np.random.default_rng(1).normal(0, 2.5, sheet.shape[:2])[..., None]
    grained = (sheet + grain).clip(0, 255).astype(np.uint8)
    around = np.pad(np.zeros(pixels.shape[:2], bool), (sheet.shape[0] - pixels.shape[0]) // 2, constant_values=True)
    return np.where(around[..., None], grained, sheet)


def _signed(pixels: Pixels) -> Pixels:
    """A mat with a caption below the photograph."""
    sheet = Image.fromarray(perturb.mat(pixels))
    ImageDraw.Draw(sheet).text((sheet.width // 3, sheet.height - 20), "Half Dome, 1/25", fill=BLACK)
    return np.asarray(sheet)


BORDERS = {
    "a white mat": perturb.mat,
    "a black frame": lambda pixels: perturb.mat(pixels, BLACK, 0.03),
    "a mat with a line in it": lambda pixels: perturb.mat(perturb.mat(pixels, BLACK, 0.01), (250, 248, 244)),
    "a frame with two lines in it": lambda pixels: _lined(pixels, (WHITE, BLACK)),
    "paper": _paper,
    "a caption": _signed,
    "the bars of a wide film": lambda pixels: _bars(pixels, 0, 60),
    "the bars of a tall one": lambda pixels: _bars(pixels, 90, 0),
    "as a JPEG": lambda pixels: perturb.jpeg(perturb.mat(pixels), 85),
}


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("name", COLOURFUL)
def test_what_lies_within_a_border_is_found(name: str, border: str) -> None:
    pixels = photograph(name)
    bordered = BORDERS[border](pixels)
    across, down = (bordered.shape[1] - pixels.shape[1]) // 2, (bordered.shape[0] - pixels.shape[0]) // 2
    there = (across, down, across + pixels.shape[1], down + pixels.shape[0])
    found = inside(Image.fromarray(bordered))
    # Compression and lines as thin as a pixel may move it by one.
    assert np.abs(np.subtract(found, there)).max() <= (
        1 if border in ("as a JPEG", "a frame with two lines in it") else 0
    )


@pytest.mark.parametrize("name", COLOURFUL)
def test_a_line_that_is_half_border_is_the_border_s(name: str) -> None:
    pixels = photograph(name)
    sheet = Image.fromarray(perturb.mat(pixels))
    for factor in (0.67, 1.9):
        bordered = sheet.resize((round(sheet.width * factor), round(sheet.height * factor)), Image.Resampling.BILINEAR)
        x, y = bordered.width / sheet.width, bordered.height / sheet.height
        mat = (sheet.width - pixels.shape[1]) / 2
        left, top, right, bottom = inside(bordered)
        outer = (mat * x, mat * y, bordered.width - mat * x, bordered.height - mat * y)
        assert np.subtract((left, top), outer[:2]).min() >= -0.5
        assert np.subtract((right, bottom), outer[2:]).max() <= 0.5
        assert np.abs(np.subtract((left, top, right, bottom), outer)).max() <= 2


@pytest.mark.parametrize("name", COLOURFUL)
def test_a_border_changes_no_score(name: str) -> None:
    pixels = photograph(name)
    (alone,) = SCORER.score([taken(pixels)])
    for border in ("a white mat", "a black frame", "the bars of a wide film"):
        (bordered,) = SCORER.score([taken(BORDERS[border](pixels))])
        assert np.abs(bordered.values - alone.values).max() <= 0.3, border


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(disc(0.5, 0.5, 0.3, grey=255, light=120), id="an object on white"),
        pytest.param(disc(0.5, 0.5, 0.45, grey=0, light=200), id="an object on black"),
        pytest.param(solid(WHITE), id="white"),
        pytest.param(noise((300, 400)), id="noise"),
        pytest.param(solid(BLACK, (1, 1)), id="1x1"),
        pytest.param(perturb.mat(noise((60, 60)), share=2.0), id="hardly anything within"),
        pytest.param(np.vstack([solid(WHITE, (150, 400)), noise((150, 400))]), id="a sky"),
        *(pytest.param(photograph(name), id=name) for name in COLOURFUL),
    ],
)
def test_a_plain_background_is_no_border(pixels: Pixels) -> None:
    image = Image.fromarray(pixels)
    assert inside(image) == (0, 0, *image.size)


def test_a_photograph_in_a_border_counts_by_its_own_size() -> None:
    bordered = Image.fromarray(perturb.mat(photograph("coffee"), share=0.25))
    # Decoded at half the file's size.
    picture = Picture.of(bordered, (2 * bordered.width, 2 * bordered.height))
    assert (picture.width, picture.height) == pytest.approx((2 * 600, 2 * 400), abs=12)
    assert picture.border == pytest.approx(1 - 600 * 400 / (800 * 600), abs=0.02)


def test_the_answer_says_that_a_border_was_left_out_also_from_a_release() -> None:
    (plain,) = SCORER.score([taken(photograph("coffee"))])
    (bordered,) = SCORER.score([taken(perturb.mat(photograph("coffee")))])
    assert note(plain, None) == ""
    for scores in (bordered, scores_from_json(scores_to_json(bordered))):
        assert note(scores, None) == (
            "A border around the photograph (26% of the area) was left out: the scores are of what lies within it."
        )
