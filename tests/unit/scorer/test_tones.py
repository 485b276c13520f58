"""Light and colour: what is clipped, cast, monochrome or of one hue."""

from __future__ import annotations

import numpy as np
import pytest

from services.scorer import perturb
from services.scorer.dimensions import NAMES
from services.scorer.measures.color_harmony import hue_name
from tests.unit.scorer.pictures import COLOURFUL, grey_photograph, photograph, sepia_photograph, solid, two_colours
from tests.unit.scorer.seeing import SCORER, evidence, measured, seen, taken


def test_clipped_shares_are_counted() -> None:
    ramp = np.tile(np.linspace(20, 230, 512), (400, 1))
    ramp[:48] = 0
    ramp[48:80] = 255
    pixels = np.repeat(ramp.round().astype(np.uint8)[..., None], 3, -1)
    values = measured("lighting", pixels)
    assert values["black_share"] == pytest.approx(0.12, abs=0.01)
    assert values["white_share"] == pytest.approx(0.08, abs=0.01)
    sentence = evidence("lighting", pixels)
    assert "12% of the pixels are black without detail" in sentence
    assert "8% of the pixels are white without detail" in sentence


def test_lost_highlights_stay_lost_when_darkened() -> None:
    burnt = perturb.expose(photograph("coffee"), 2.0)
    darkened = perturb.expose(burnt, -1.0)
    values = [measured("lighting", pixels) for pixels in (photograph("coffee"), burnt, darkened)]
    assert values[0]["lost_highlights"] < 0.05 < values[1]["lost_highlights"]
    assert values[2]["lost_highlights"] == pytest.approx(values[1]["lost_highlights"], rel=0.25)
    assert values[2]["white_share"] < 0.01


def test_a_cast_is_named_by_its_hue() -> None:
    grey = grey_photograph()
    tinted = perturb.cast(photograph("astronaut"), perturb.CASTS["cool"])
    assert hue_name(measured("color_harmony", tinted)["cast_hue"]) in ("blue", "blue-green")
    assert "lean to" in evidence("color_harmony", tinted)
    assert measured("color_harmony", grey)["cast"] < 1


def test_what_counts_as_monochrome() -> None:
    for pixels in (grey_photograph(), sepia_photograph(), solid((128, 128, 128)), photograph("camera")):
        assert seen(pixels).color_weight.item() < 0.2
        assert "monochrome" in evidence("color_harmony", pixels)
    for name in COLOURFUL:
        assert seen(photograph(name)).color_weight.item() > 0.8
        assert seen(perturb.expose(photograph(name), -3.0)).color_weight.item() > 0.8
    assert seen(two_colours()).color_weight.item() == 1


def test_one_hue_fits_a_narrow_template_and_all_hues_fit_none() -> None:
    x = np.linspace(0, 1, 512)
    wheel = np.stack([np.clip(128 + 100 * np.cos(2 * np.pi * (x - k / 3)), 0, 255) for k in range(3)], -1)
    many = np.tile(wheel.round().astype(np.uint8), (384, 1, 1))
    few = two_colours()
    assert measured("color_harmony", many)["hue_entropy"] > 0.8 > measured("color_harmony", few)["hue_entropy"]
    assert (
        measured("color_harmony", many)["template_distance"] > measured("color_harmony", few)["template_distance"] + 10
    )


def test_half_a_colour_is_judged_between_its_tones_and_its_colours() -> None:
    harmony = NAMES.index("color_harmony")
    faded = [perturb.saturate(photograph("astronaut"), share / 100) for share in range(0, 60, 4)]
    scenes = [seen(pixels).color_weight.item() for pixels in faded]
    assert any(0.2 < weight < 0.8 for weight in scenes)
    scores = [scored.values[harmony] for scored in SCORER.score([taken(pixels) for pixels in faded])]
    tones = scores[0]
    colours = next(score for score, weight in zip(scores, scenes, strict=True) if weight > 0.99)
    assert min(tones, colours) - 0.7 <= min(scores)
    assert max(scores) <= max(tones, colours) + 0.7


def test_noise_and_a_thin_tint_are_no_colour() -> None:
    grey = np.repeat(photograph("astronaut").mean(-1, keepdims=True).astype(np.uint8), 3, -1)
    for sigma in (4.0, 8.0, 16.0):
        assert seen(perturb.noise(grey, sigma, np.random.default_rng(3))).color_weight.item() < 0.2
    assert seen(perturb.crush(sepia_photograph(), 0.25)).color_weight.item() < 0.2
