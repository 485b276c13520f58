"""What the scorer says of colours is what a person would say."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image, ImageColor

from services.scorer.calibration import Calibration
from services.scorer.measures.color_harmony import TEMPLATES, evidence, hue_name
from services.scorer.scoring import Picture, Scorer
from tests.unit.scorer.pictures import Pixels, photograph

SCORER = Scorer(Calibration.load())


def _values(pixels: Pixels) -> dict[str, float]:
    (scores,) = SCORER.score([Picture.of(Image.fromarray(np.ascontiguousarray(pixels)))])
    return scores.dimensions[3].values


def _said(values: dict[str, float]) -> str:
    return " ".join(evidence(values))


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ("pink", "pink"),
        ("crimson", "red"),
        ("red", "red"),
        ("orange", "orange"),
        ("tan", "orange"),
        ("gold", "yellow"),
        ("yellow", "yellow"),
        ("green", "green"),
        ("teal", "blue-green"),
        ("skyblue", "blue"),
        ("blue", "blue"),
        ("navy", "blue"),
        ("purple", "purple"),
    ],
)
def test_a_hue_has_the_name_that_people_give_it(colour: str, name: str) -> None:
    pixels = np.full((64, 64, 3), ImageColor.getrgb(colour), np.uint8)
    values = _values(pixels)
    assert hue_name(values["cast_hue"]) == name


PALETTES = {
    ("i", 120.0, 3.0): "near green.",
    ("i", 75.0, 10.0): "between orange or brown and yellow.",
    ("V", 80.0, 12.0): "between red and green.",
    ("I", 60.0, 6.0): "near orange or brown, and near blue.",
    ("L", 300.0, 13.0): "near blue, and between pink and orange or brown.",
    ("Y", 85.0, 15.0): "between red and green, and near blue.",
    ("i", 105.0, 3.0): "near yellow or green.",
}


@pytest.mark.parametrize(("name", "angle", "distance"), PALETTES)
def test_a_palette_is_told_by_its_hues(name: str, angle: float, distance: float) -> None:
    values = _values(photograph("astronaut")) | {
        "template": float(list(TEMPLATES).index(name)),
        "template_angle": angle,
        "template_distance": distance,
        "hue_entropy": 0.5,
        "mean_chroma": 20.0,
    }
    assert f"Most colours lie {PALETTES[name, angle, distance]}" in _said(values)
    assert "no one or two of them lead" in _said(values | {"hue_entropy": 0.8})
    assert "little colour" in _said(values | {"mean_chroma": 4.0})


def test_masses_and_patches_share_all_of_the_variation() -> None:
    sentence = _said(_values(photograph("camera")))
    shares = [int(share) for share in re.findall(r"(\d+)%", sentence)]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_a_cast_may_be_the_colour_of_the_things() -> None:
    sea = np.full((300, 400, 3), (40, 110, 170), np.uint8)
    assert "or their own colour" in _said(_values(sea) | {"color_weight": 1.0})
