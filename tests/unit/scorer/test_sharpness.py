"""Noise, blur and motion, in pictures that have a known amount of each."""

from __future__ import annotations

import numpy as np
import pytest

from services.scorer import perturb
from services.scorer.dimensions import NAMES
from services.scorer.measures.noise import LUMA_VARIANCE
from tests.unit.scorer.pictures import disc, noise, photograph
from tests.unit.scorer.seeing import SCORER, evidence, measured, seen, taken


@pytest.mark.parametrize("sigma", [5.0, 10.0, 20.0])
def test_noise_is_measured_in_levels(sigma: float) -> None:
    flat = np.full((384, 512, 3), 128.0)
    noise = np.random.default_rng(1).normal(0, sigma, (384, 512, 1))
    pixels = np.clip(flat + noise, 0, 255).round().astype(np.uint8)
    assert measured("focus_sharpness", pixels)["noise"] == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize("ground", [0, 255])
@pytest.mark.parametrize("sigma", [8.0, 16.0, 32.0])
def test_noise_is_seen_on_a_clipped_ground(ground: int, sigma: float) -> None:
    clean = disc(0.5, 0.5, radius=0.3, grey=ground, light=128)
    noisy = perturb.noise(clean, sigma, np.random.default_rng(3))
    # White and black cut the noise off; the disc shows all of it.
    assert measured("focus_sharpness", noisy)["noise"] == pytest.approx(LUMA_VARIANCE**0.5 * sigma, rel=0.1)


@pytest.mark.parametrize("sigma", [8.0, 16.0, 32.0])
def test_noise_is_seen_in_texture(sigma: float) -> None:
    # Fur: fine streaks of one colour everywhere, whose energy grows with scale as that of noise does not.
    fur = noise((384, 512))[..., :1].repeat(3, axis=-1)
    fur = perturb.motion_blur(fur, 7, 80)
    focus = NAMES.index("focus_sharpness")
    clean, noisy = SCORER.score([taken(fur), taken(perturb.noise(fur, sigma, np.random.default_rng(3)))])
    assert noisy.values[focus] < clean.values[focus]


def test_scrambled_hues_are_hardly_noise() -> None:
    scrambled = perturb.scramble_hue(photograph("coffee"), 0, np.random.default_rng(3))
    sigma = 16.0
    noisy = perturb.noise(photograph("coffee"), sigma, np.random.default_rng(3))
    assert measured("focus_sharpness", scrambled)["noise"] < 0.2 * measured("focus_sharpness", noisy)["noise"]


def test_colour_broken_at_every_pixel_is_seen_and_noise_is_not_taken_for_it() -> None:
    clean = photograph("astronaut")
    rng = np.random.default_rng(3)
    broken = seen(perturb.scramble_hue(clean, 0, rng)).noise.broken.item()
    noisy = [seen(perturb.noise(clean, sigma, rng)).noise.broken.item() for sigma in (8.0, 16.0, 32.0)]
    assert seen(clean).noise.broken.item() < 0.01
    assert max(noisy) < 0.1 < 0.3 < broken


def test_the_width_of_a_blurred_edge_is_measured() -> None:
    y, x = np.mgrid[:384, :512]
    board = np.where(((x // 72) + (y // 56)) % 2 == 0, 60, 190).astype(np.uint8)
    board = np.repeat(board[..., None], 3, -1)
    widths = [
        measured("focus_sharpness", perturb.gaussian_blur(board, sigma))["reblur_width"] for sigma in (0.8, 1.6, 3.2)
    ]
    # The base of the measure is itself blurred by 0.7 px.
    assert widths == pytest.approx([np.hypot(sigma, 0.7) for sigma in (0.8, 1.6, 3.2)], rel=0.3)


def test_motion_is_told_by_its_direction() -> None:
    blurred = perturb.motion_blur(photograph("coffee"), 15, 0)
    values = measured("focus_sharpness", blurred)
    assert min(values["blur_angle"], 180 - values["blur_angle"]) < 25
    assert "mainly horizontal" in evidence("focus_sharpness", blurred)
