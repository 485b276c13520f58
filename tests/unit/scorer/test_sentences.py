"""What the scorer says of a picture is true of it, and is said where its own evidence allows it."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from PIL import Image

from services.scorer import perturb
from services.scorer.calibration import Calibration
from services.scorer.dimensions import DIMENSIONS, NAMES
from services.scorer.measures.planes import normalise
from services.scorer.scoring import Picture, Scorer
from tests.unit.scorer.pictures import COLOURFUL, Pixels, disc, photograph

SCORER = Scorer(Calibration.load())


def _values(dimension: str, pixels: Pixels) -> dict[str, float]:
    (scores,) = SCORER.score([Picture.of(Image.fromarray(np.ascontiguousarray(pixels)))])
    return scores.dimensions[NAMES.index(dimension)].values


def _said(dimension: str, values: dict[str, float]) -> str:
    return " ".join(DIMENSIONS[NAMES.index(dimension)].evidence(values))


def _advised(dimension: str, values: dict[str, float]) -> str:
    return DIMENSIONS[NAMES.index(dimension)].advice(values)


@pytest.mark.parametrize("name", [*COLOURFUL, "camera"])
def test_nothing_is_said_twice_of_a_photograph_and_nothing_of_none(name: str) -> None:
    (scores,) = SCORER.score([Picture.of(Image.fromarray(photograph(name)))])
    sentences = [sentence for one in scores.dimensions for sentence in (*one.evidence, one.advice)]
    assert len(set(sentences)) == len(sentences)
    for sentence in sentences:
        assert re.fullmatch(r"[A-Z0-9].*[^ .]\.", sentence), sentence
        assert "0% of the pixels" not in re.sub(r"[1-9]0%", "", sentence)


def test_sharp_things_of_one_direction_are_not_called_moved() -> None:
    sharp = _values("focus_sharpness", photograph("coffee")) | {"anisotropy": 2.0, "reblur_width_across": 0.5}
    assert "moved" not in _said("focus_sharpness", sharp)
    assert "tripod" not in _advised("focus_sharpness", sharp)
    moved = _values("focus_sharpness", perturb.motion_blur(photograph("coffee"), 15, 0))
    assert "moved" in _said("focus_sharpness", moved)
    assert "tripod" in _advised("focus_sharpness", moved)


def test_blurred_edges_are_called_soft_and_never_crisp() -> None:
    for name, sigma in itertools.product(COLOURFUL, (2.0, 4.0)):
        pixels = perturb.gaussian_blur(normalise(Image.fromarray(photograph(name))), sigma)
        said = _said("focus_sharpness", _values("focus_sharpness", pixels))
        assert "are soft" in said or "hardly an edge" in said, (name, sigma)


def _posts(degrees: float) -> Pixels:
    """Upright bars and level ones between them, the whole turned clockwise by so many degrees."""
    grey = np.full((1536, 2048), 190, np.uint8)
    grey[:, 400:460] = grey[:, 1500:1560] = grey[700:760] = 60
    turned = Image.fromarray(grey).rotate(-degrees, Image.Resampling.BICUBIC, fillcolor=190)
    return np.asarray(turned.crop((200, 150, 1848, 1386)).resize((512, 384), Image.Resampling.BOX).convert("RGB"))


@pytest.mark.parametrize("degrees", [-4.0, 3.0])
def test_a_picture_turned_as_advised_is_level(degrees: float) -> None:
    leaning = _posts(degrees)
    advice = _advised("visual_balance", _values("visual_balance", leaning))
    found = re.search(r"turn the picture ([\d.]+) degrees (counter-)?clockwise", advice)
    assert found is not None
    # Pillow turns counter-clockwise.
    turned = Image.fromarray(leaning).rotate(float(found[1]) * (1 if found[2] else -1), Image.Resampling.BICUBIC)
    level = np.asarray(turned.crop((40, 30, 472, 354)))
    assert abs(_values("visual_balance", level)["tilt"]) < 0.8
    assert "turn the picture" not in _advised("visual_balance", _values("visual_balance", level))


def test_what_lies_across_the_frame_is_no_tilt_and_tilt_is_said_once() -> None:
    values = _values("visual_balance", _posts(3.0))
    assert "degrees clockwise" in _said("visual_balance", values)
    assert "degrees" not in _said("composition", _values("composition", _posts(3.0)))
    assert "degrees" not in _said("visual_balance", values | {"tilt": 12.0})


def test_a_weight_that_nobody_sees_is_called_even() -> None:
    values = _values("visual_balance", disc(0.5, 0.5))
    assert "about the same visual weight" in _said("visual_balance", values | {"weight_x": 0.52})
    assert "4% right" in _said("visual_balance", values | {"weight_x": 0.54})
    assert "turn the camera to the right" in _advised("visual_balance", values | {"weight_x": 0.54})


def test_shadows_are_not_called_deep_where_stretching_made_them() -> None:
    pale = np.asarray(160 + 0.3 * disc(0.5, 0.5, radius=0.3), np.uint8)
    sentence = _said("emotional_impact", _values("emotional_impact", pale))
    assert "deep" not in sentence.lower()


@pytest.mark.parametrize(("stops", "advice"), [(2.5, "one stop less"), (-3.0, "one stop more")])
def test_exposure_is_advised_the_right_way(stops: float, advice: str) -> None:
    assert advice in _advised("lighting", _values("lighting", perturb.expose(photograph("chelsea"), stops)))


def test_a_range_that_is_short_is_not_laid_to_the_light() -> None:
    pale = np.asarray(90 + 0.3 * photograph("chelsea"), np.uint8)
    assert "true black and a true white" in _advised("lighting", _values("lighting", pale))
    assert "light from the side" in _advised("lighting", _values("lighting", photograph("coffee")))
