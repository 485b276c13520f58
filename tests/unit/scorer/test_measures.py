"""What the measures see in pictures whose content is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from services.scorer import perturb
from services.scorer.calibration import Calibration
from services.scorer.dimensions import DIMENSIONS, NAMES
from services.scorer.measures.color_harmony import hue_name
from services.scorer.measures.noise import LUMA_VARIANCE
from services.scorer.measures.scene import Scene
from services.scorer.scoring import Picture, Scorer
from tests.unit.scorer.pictures import COLOURFUL, Pixels, disc, photograph

SCORER = Scorer(Calibration.load())


def _picture(pixels: Pixels) -> Picture:
    return Picture.of(Image.fromarray(np.ascontiguousarray(pixels)))


def _scene(pixels: Pixels) -> Scene:
    return Scene.of([_picture(pixels).pixels])


def _values(dimension: str, pixels: Pixels) -> dict[str, float]:
    (scores,) = SCORER.score([_picture(pixels)])
    return scores.dimensions[NAMES.index(dimension)].values


def _evidence(dimension: str, pixels: Pixels) -> str:
    (scores,) = SCORER.score([_picture(pixels)])
    return " ".join(scores.dimensions[NAMES.index(dimension)].evidence)


def _solid(rgb: tuple[int, int, int], size: tuple[int, int] = (300, 400)) -> Pixels:
    return np.full((*size, 3), rgb, np.uint8)


def _noise(size: tuple[int, int]) -> Pixels:
    return np.random.default_rng(5).integers(0, 256, (*size, 3), dtype=np.uint8)


def _two_colours() -> Pixels:
    pixels = _solid((200, 30, 30))
    pixels[:, 200:] = (20, 40, 180)
    return pixels


def _grey() -> Pixels:
    return np.repeat(photograph("chelsea").mean(-1, keepdims=True).astype(np.uint8), 3, -1)


def _sepia() -> Pixels:
    return np.asarray(np.clip(_grey() * np.array([1.07, 0.85, 0.62]), 0, 255), np.uint8)


ODD = {
    "1x1": _solid((90, 120, 40), (1, 1)),
    "8000x20": np.resize(photograph("coffee"), (20, 8000, 3)),
    "20x8000": np.resize(photograph("coffee"), (8000, 20, 3)),
    "black": _solid((0, 0, 0)),
    "white": _solid((255, 255, 255)),
    "noise": _noise((300, 400)),
    "two colours": _two_colours(),
    "grey": _grey(),
    "sepia": _sepia(),
    "2x3": _noise((2, 3)),
}


@pytest.mark.parametrize("name", ODD)
def test_any_picture_has_eight_finite_scores_and_says_why(name: str) -> None:
    (scores,) = SCORER.score([_picture(ODD[name])])
    assert np.isfinite(scores.values).all()
    assert ((scores.values >= 0) & (scores.values <= 10)).all()
    assert 0 <= scores.overall <= 10
    for one, dimension in zip(scores.dimensions, DIMENSIONS, strict=True):
        assert 0 <= one.confidence <= dimension.prior
        assert one.evidence
        assert all(sentence.endswith(".") and "nan" not in sentence for sentence in (*one.evidence, one.advice))
        assert set(one.values) == set(dimension.units)
        assert np.isfinite(list(one.values.values())).all()


@pytest.mark.parametrize("name", ["1x1", "8000x20", "black", "white", "2x3"])
def test_confidence_drops_where_there_is_little_to_see(name: str) -> None:
    (odd,) = SCORER.score([_picture(ODD[name])])
    (real,) = SCORER.score([_picture(photograph("coffee"))])
    for strange, usual in zip(odd.dimensions, real.dimensions, strict=True):
        assert strange.confidence < 0.6 * usual.confidence


@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)),
        elements=st.integers(0, 255),
        fill=st.integers(0, 255),
    )
)
@settings(max_examples=15, deadline=None)
def test_whatever_the_pixels_are(pixels: Pixels) -> None:
    (scores,) = SCORER.score([_picture(pixels)])
    assert np.isfinite(scores.values).all()
    assert ((scores.values >= 0) & (scores.values <= 10)).all()
    assert all(0 <= one.confidence <= 1 for one in scores.dimensions)


def test_a_batch_gives_what_each_picture_gives_alone() -> None:
    pictures = [_picture(np.resize(photograph(name), (300, 400, 3))) for name in COLOURFUL]
    together = SCORER.score(pictures)
    for picture, scores in zip(pictures, together, strict=True):
        (alone,) = SCORER.score([picture])
        np.testing.assert_allclose(alone.values, scores.values, atol=1e-3)


@pytest.mark.parametrize("name", COLOURFUL)
def test_a_mirrored_photograph_scores_the_same(name: str) -> None:
    straight, mirrored = SCORER.score([_picture(photograph(name)), _picture(perturb.flip(photograph(name)))])
    np.testing.assert_allclose(mirrored.values, straight.values, atol=0.3)


@pytest.mark.parametrize(("x", "y"), [(0.3, 0.35), (0.5, 0.5), (0.7, 0.3)])
def test_the_subject_is_found_where_it_is(x: float, y: float) -> None:
    scene = _scene(disc(x, y))
    subject = scene.subject
    assert subject.x.item() == pytest.approx(x, abs=0.04)
    assert subject.y.item() == pytest.approx(y, abs=0.04)
    assert subject.concentration.item() > 0.8
    inside = scene.subject.map[0, int(y * 48), int(x * 64)].item()
    assert inside > 0.9
    assert scene.subject.map[0, 2, 2].item() < 0.1


def test_a_subject_on_a_third_is_better_placed_than_one_between() -> None:
    on, between = _values("composition", disc(1 / 3, 1 / 3)), _values("composition", disc(0.2, 0.75))
    assert on["power_point_distance"] < 0.05 < between["power_point_distance"]
    scores = [SCORER.score([_picture(p)])[0].values[0] for p in (disc(1 / 3, 1 / 3), disc(0.2, 0.75))]
    assert scores[0] > scores[1]
    assert "upper left crossing of the thirds" in _evidence("composition", disc(1 / 3, 1 / 3))


def _horizon(degrees: float) -> Pixels:
    # Drawn four times as large and reduced: a lens draws no staircase.
    rows, columns = 4 * 384, 4 * 512
    y, x = np.mgrid[:rows, :columns]
    below = (y - rows * 0.45) > np.tan(np.radians(degrees)) * (x - columns / 2)
    large = Image.fromarray(np.where(below, 70, 190).astype(np.uint8))
    return np.asarray(large.resize((512, 384), Image.Resampling.BOX).convert("RGB"))


@pytest.mark.parametrize("degrees", [-8.0, -3.0, 2.0, 6.0])
def test_a_leaning_horizon_is_measured(degrees: float) -> None:
    values = _values("visual_balance", _horizon(degrees))
    assert values["tilt"] == pytest.approx(degrees, abs=0.6)
    sentence = _evidence("visual_balance", _horizon(degrees))
    assert f"degrees {'clockwise' if degrees > 0 else 'counter-clockwise'} from level" in sentence


def test_a_level_horizon_is_better_than_a_leaning_one() -> None:
    level, leaning = (SCORER.score([_picture(_horizon(angle))])[0] for angle in (0.0, 6.0))
    for name in ("visual_balance", "composition"):
        assert level.values[NAMES.index(name)] > leaning.values[NAMES.index(name)] + 0.5


@pytest.mark.parametrize("sigma", [5.0, 10.0, 20.0])
def test_noise_is_measured_in_levels(sigma: float) -> None:
    flat = np.full((384, 512, 3), 128.0)
    noise = np.random.default_rng(1).normal(0, sigma, (384, 512, 1))
    pixels = np.clip(flat + noise, 0, 255).round().astype(np.uint8)
    assert _values("focus_sharpness", pixels)["noise"] == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize("ground", [0, 255])
@pytest.mark.parametrize("sigma", [8.0, 16.0, 32.0])
def test_noise_is_seen_on_a_clipped_ground(ground: int, sigma: float) -> None:
    clean = disc(0.5, 0.5, radius=0.3, grey=ground, light=128)
    noisy = perturb.noise(clean, sigma, np.random.default_rng(3))
    # White and black cut the noise off; the disc shows all of it.
    assert _values("focus_sharpness", noisy)["noise"] == pytest.approx(LUMA_VARIANCE**0.5 * sigma, rel=0.1)


@pytest.mark.parametrize("sigma", [8.0, 16.0, 32.0])
def test_noise_is_seen_in_texture(sigma: float) -> None:
    # Fur: fine streaks of one colour everywhere, whose energy grows with scale as that of noise does not.
    fur = _noise((384, 512))[..., :1].repeat(3, axis=-1)
    fur = perturb.motion_blur(fur, 7, 80)
    focus = NAMES.index("focus_sharpness")
    clean, noisy = SCORER.score([_picture(fur), _picture(perturb.noise(fur, sigma, np.random.default_rng(3)))])
    assert noisy.values[focus] < clean.values[focus]


def test_the_width_of_a_blurred_edge_is_measured() -> None:
    y, x = np.mgrid[:384, :512]
    board = np.where(((x // 72) + (y // 56)) % 2 == 0, 60, 190).astype(np.uint8)
    board = np.repeat(board[..., None], 3, -1)
    widths = [
        _values("focus_sharpness", perturb.gaussian_blur(board, sigma))["reblur_width"] for sigma in (0.8, 1.6, 3.2)
    ]
    # The base of the measure is itself blurred by 0.7 px.
    assert widths == pytest.approx([np.hypot(sigma, 0.7) for sigma in (0.8, 1.6, 3.2)], rel=0.3)


def test_motion_is_told_by_its_direction() -> None:
    blurred = perturb.motion_blur(photograph("coffee"), 15, 0)
    values = _values("focus_sharpness", blurred)
    assert min(values["blur_angle"], 180 - values["blur_angle"]) < 25
    assert "mainly horizontal" in _evidence("focus_sharpness", blurred)


def test_clipped_shares_are_counted() -> None:
    ramp = np.tile(np.linspace(20, 230, 512), (400, 1))
    ramp[:48] = 0
    ramp[48:80] = 255
    pixels = np.repeat(ramp.round().astype(np.uint8)[..., None], 3, -1)
    values = _values("lighting", pixels)
    assert values["black_share"] == pytest.approx(0.12, abs=0.01)
    assert values["white_share"] == pytest.approx(0.08, abs=0.01)
    sentence = _evidence("lighting", pixels)
    assert "12% of the pixels are black without detail" in sentence
    assert "8% of the pixels are white without detail" in sentence


def test_lost_highlights_stay_lost_when_darkened() -> None:
    burnt = perturb.expose(photograph("coffee"), 2.0)
    darkened = perturb.expose(burnt, -1.0)
    values = [_values("lighting", pixels) for pixels in (photograph("coffee"), burnt, darkened)]
    assert values[0]["lost_highlights"] < 0.05 < values[1]["lost_highlights"]
    assert values[2]["lost_highlights"] == pytest.approx(values[1]["lost_highlights"], rel=0.25)
    assert values[2]["white_share"] < 0.01


def test_a_cast_is_named_by_its_hue() -> None:
    grey = _grey()
    tinted = perturb.cast(photograph("astronaut"), perturb.CASTS["cool"])
    assert hue_name(_values("color_harmony", tinted)["cast_hue"]) in ("blue", "blue-green")
    assert "lean to" in _evidence("color_harmony", tinted)
    assert _values("color_harmony", grey)["cast"] < 1


def test_what_counts_as_monochrome() -> None:
    for pixels in (_grey(), _sepia(), _solid((128, 128, 128)), photograph("camera")):
        assert _scene(pixels).color_weight.item() < 0.2
        assert "monochrome" in _evidence("color_harmony", pixels)
    for name in COLOURFUL:
        assert _scene(photograph(name)).color_weight.item() > 0.8
        assert _scene(perturb.expose(photograph(name), -3.0)).color_weight.item() > 0.8
    assert _scene(_two_colours()).color_weight.item() == 1


def test_one_hue_fits_a_narrow_template_and_all_hues_fit_none() -> None:
    x = np.linspace(0, 1, 512)
    wheel = np.stack([np.clip(128 + 100 * np.cos(2 * np.pi * (x - k / 3)), 0, 255) for k in range(3)], -1)
    many = np.tile(wheel.round().astype(np.uint8), (384, 1, 1))
    few = _two_colours()
    assert _values("color_harmony", many)["hue_entropy"] > 0.8 > _values("color_harmony", few)["hue_entropy"]
    assert _values("color_harmony", many)["template_distance"] > _values("color_harmony", few)["template_distance"] + 10


def test_converging_lines_are_found_where_they_meet() -> None:
    y, x = np.mgrid[:384, :512]
    angle = np.degrees(np.arctan2(y - 0.4 * 384, x - 0.6 * 512))
    spokes = np.where((angle // 18) % 2 == 0, 80, 180).astype(np.uint8)
    lines = _scene(np.repeat(spokes[..., None], 3, -1)).lines
    # 19 of 20 photographs of the fitting set stay below 0.16.
    assert lines.convergence.item() > 0.16
    assert lines.vanishing_x.item() == pytest.approx(0.6, abs=0.12)
    assert lines.vanishing_y.item() == pytest.approx(0.4, abs=0.15)


def test_a_busy_background_isolates_less_and_a_blurred_one_more() -> None:
    pixels = photograph("coffee")
    rows, columns = pixels.shape[:2]
    y, x = np.mgrid[:rows, :columns]
    mask = np.hypot((x - 0.48 * columns) / 0.27 / columns, (y - 0.42 * rows) / 0.36 / rows) < 1
    rng = np.random.default_rng(0)
    index = NAMES.index("subject_isolation")
    plain, busy, soft = (
        SCORER.score([_picture(changed)])[0].values[index]
        for changed in (pixels, perturb.clutter_behind(pixels, mask, rng), perturb.blur_behind(pixels, mask, 6.0))
    )
    assert busy < plain < soft


def test_the_weight_of_the_frame_is_told_from_its_side() -> None:
    values = _values("visual_balance", disc(0.8, 0.5))
    assert values["weight_x"] > 0.55
    assert "right of the centre" in _evidence("visual_balance", disc(0.8, 0.5))
    assert _values("visual_balance", disc(0.5, 0.5))["symmetry"] > 0.9


def test_clutter_has_no_subject_that_stands_out() -> None:
    plain = disc(0.5, 0.5, radius=0.25, grey=90, light=210)
    inside = plain[..., 0] > 150
    clutter = perturb.clutter_behind(photograph("coffee")[:384, :512], inside, np.random.default_rng(3))
    cluttered = np.where(inside[..., None], plain, clutter)
    isolation = NAMES.index("subject_isolation")
    clean, busy = SCORER.score([_picture(plain), _picture(cluttered)])
    assert busy.values[isolation] < clean.values[isolation] - 2


def test_a_landscape_is_deeper_than_a_thing_on_a_table() -> None:
    # Sky, hills and a ground whose texture grows coarser towards the viewer, against a disc on a plain ground.
    land = np.zeros((384, 512, 3), np.uint8)
    land[:140], land[140:220], land[220:] = (120, 160, 220), (90, 110, 120), (90, 80, 50)
    for size, top, bottom in ((2, 220, 270), (4, 270, 320), (8, 320, 384)):
        rough = np.random.default_rng(size).integers(-40, 40, (-(-(bottom - top) // size), 512 // size))
        grain = rough.repeat(size, 0).repeat(size, 1)[: bottom - top, :, None]
        land[top:bottom] = np.clip(land[top:bottom] + grain, 0, 255)
    depth = NAMES.index("depth_perspective")
    deep, flat = SCORER.score([_picture(land), _picture(disc(0.5, 0.5))])
    assert deep.values[depth] > flat.values[depth] + 2
    assert "bluer" in _evidence("depth_perspective", land)


def test_half_a_colour_is_judged_between_its_tones_and_its_colours() -> None:
    harmony = NAMES.index("color_harmony")
    faded = [perturb.saturate(photograph("astronaut"), share / 100) for share in range(0, 60, 4)]
    scenes = [_scene(pixels).color_weight.item() for pixels in faded]
    assert any(0.2 < weight < 0.8 for weight in scenes)
    scores = [scored.values[harmony] for scored in SCORER.score([_picture(pixels) for pixels in faded])]
    tones = scores[0]
    colours = next(score for score, weight in zip(scores, scenes, strict=True) if weight > 0.99)
    assert min(tones, colours) - 0.7 <= min(scores)
    assert max(scores) <= max(tones, colours) + 0.7


def test_noise_and_a_thin_tint_are_no_colour() -> None:
    grey = np.repeat(photograph("astronaut").mean(-1, keepdims=True).astype(np.uint8), 3, -1)
    for sigma in (4.0, 8.0, 16.0):
        assert _scene(perturb.noise(grey, sigma, np.random.default_rng(3))).color_weight.item() < 0.2
    assert _scene(perturb.crush(_sepia(), 0.25)).color_weight.item() < 0.2


def test_scrambled_hues_are_hardly_noise() -> None:
    scrambled = perturb.scramble_hue(photograph("coffee"), 0, np.random.default_rng(3))
    sigma = 16.0
    noisy = perturb.noise(photograph("coffee"), sigma, np.random.default_rng(3))
    assert _values("focus_sharpness", scrambled)["noise"] < 0.2 * _values("focus_sharpness", noisy)["noise"]


@pytest.mark.parametrize("name", COLOURFUL)
@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_blurring_everything_sets_no_subject_apart(name: str, sigma: float) -> None:
    isolation = NAMES.index("subject_isolation")
    sharp, soft = SCORER.score([_picture(photograph(name)), _picture(perturb.gaussian_blur(photograph(name), sigma))])
    assert soft.values[isolation] <= sharp.values[isolation] + 0.5


def test_the_focus_gap_is_opened_behind_the_subject_and_closed_by_blurring_all() -> None:
    board = (np.indices((384, 512)) // 12).sum(0) % 2 * 120 + 60
    y, x = np.mgrid[:384, :512]
    inside = np.hypot(x - 256, y - 192) < 100
    pixels = np.repeat(np.where(inside, 255 - board // 2, board).astype(np.uint8)[..., None], 3, -1)
    behind = perturb.blur_behind(pixels, inside, 4.0)
    gaps = [
        _values("subject_isolation", changed)["focus_gap"]
        for changed in (pixels, behind, perturb.gaussian_blur(behind, 6.0))
    ]
    assert gaps[1] > gaps[0] + 0.5
    assert gaps[1] > gaps[2] + 0.5


def _advice(dimension: str, pixels: Pixels) -> str:
    (scores,) = SCORER.score([_picture(pixels)])
    return scores.dimensions[NAMES.index(dimension)].advice


def test_nobody_is_told_to_do_what_is_done_already() -> None:
    assert "onto a third" not in _advice("composition", disc(1 / 3, 1 / 3))
    assert "onto a third" in _advice("composition", disc(0.22, 0.83))
    assert "Shift the frame down" in _advice("visual_balance", disc(0.5, 0.85, radius=0.1))
    assert "Shift the frame up" in _advice("visual_balance", disc(0.5, 0.15, radius=0.1))
    assert "horizon" not in _advice("visual_balance", disc(0.5, 0.85))


def test_colour_broken_at_every_pixel_is_seen_and_noise_is_not_taken_for_it() -> None:
    clean = photograph("astronaut")
    rng = np.random.default_rng(3)
    broken = _scene(perturb.scramble_hue(clean, 0, rng)).noise.broken.item()
    noisy = [_scene(perturb.noise(clean, sigma, rng)).noise.broken.item() for sigma in (8.0, 16.0, 32.0)]
    assert _scene(clean).noise.broken.item() < 0.01
    assert max(noisy) < 0.1 < 0.3 < broken


def test_what_lies_across_a_diagonal_answers() -> None:
    def patches(*corners: tuple[int, int]) -> Pixels:
        pixels = _solid((128, 128, 128), (384, 512))
        for row, column in corners:
            pixels[row : row + 60, column : column + 60] = 230
        return pixels

    answered = _values("visual_balance", patches((40, 60), (284, 392)))
    alone = _values("visual_balance", patches((40, 60), (284, 60)))
    assert answered["offset"] < 0.01
    assert answered["axes"] < alone["axes"]
    assert alone["left_right"] < -0.2


def test_grain_is_not_taken_for_a_sharp_background() -> None:
    y, x = np.mgrid[:384, :512]
    inside = (x - 256) ** 2 + (y - 192) ** 2 < 80**2
    tones = np.where(inside, 200 + 30 * ((x // 6 + y // 6) % 2), 128 + 6 * np.sin(x / 30))
    grain = np.random.default_rng(5).normal(0, 3, tones.shape)
    clean, grainy = (
        np.clip(plane, 0, 255).round().astype(np.uint8)[..., None].repeat(3, -1) for plane in (tones, tones + grain)
    )
    gaps = [_values("subject_isolation", pixels)["focus_gap"] for pixels in (clean, grainy)]
    assert gaps[1] == pytest.approx(gaps[0], abs=0.15)
