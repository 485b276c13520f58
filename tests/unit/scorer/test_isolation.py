"""What sets a subject apart from what is behind it, and what makes a picture deep."""

from __future__ import annotations

import numpy as np
import pytest

from services.scorer import perturb
from services.scorer.dimensions import NAMES
from tests.unit.scorer.pictures import COLOURFUL, disc, photograph
from tests.unit.scorer.seeing import SCORER, evidence, measured, seen, taken


def test_a_busy_background_isolates_less_and_a_blurred_one_more() -> None:
    pixels = photograph("coffee")
    rows, columns = pixels.shape[:2]
    y, x = np.mgrid[:rows, :columns]
    mask = np.hypot((x - 0.48 * columns) / 0.27 / columns, (y - 0.42 * rows) / 0.36 / rows) < 1
    rng = np.random.default_rng(0)
    index = NAMES.index("subject_isolation")
    plain, busy, soft = (
        SCORER.score([taken(changed)])[0].values[index]
        for changed in (pixels, perturb.clutter_behind(pixels, mask, rng), perturb.blur_behind(pixels, mask, 6.0))
    )
    assert busy < plain < soft


def test_clutter_has_no_subject_that_stands_out() -> None:
    plain = disc(0.5, 0.5, radius=0.25, grey=90, light=210)
    inside = plain[..., 0] > 150
    clutter = perturb.clutter_behind(photograph("coffee")[:384, :512], inside, np.random.default_rng(3))
    cluttered = np.where(inside[..., None], plain, clutter)
    isolation = NAMES.index("subject_isolation")
    clean, busy = SCORER.score([taken(plain), taken(cluttered)])
    assert busy.values[isolation] < clean.values[isolation] - 2


@pytest.mark.parametrize("name", COLOURFUL)
@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_blurring_everything_sets_no_subject_apart(name: str, sigma: float) -> None:
    isolation = NAMES.index("subject_isolation")
    sharp, soft = SCORER.score([taken(photograph(name)), taken(perturb.gaussian_blur(photograph(name), sigma))])
    assert soft.values[isolation] <= sharp.values[isolation] + 0.5


def test_the_focus_gap_is_opened_behind_the_subject_and_closed_by_blurring_all() -> None:
    board = (np.indices((384, 512)) // 12).sum(0) % 2 * 120 + 60
    y, x = np.mgrid[:384, :512]
    inside = np.hypot(x - 256, y - 192) < 100
    pixels = np.repeat(np.where(inside, 255 - board // 2, board).astype(np.uint8)[..., None], 3, -1)
    behind = perturb.blur_behind(pixels, inside, 4.0)
    gaps = [
        measured("subject_isolation", changed)["focus_gap"]
        for changed in (pixels, behind, perturb.gaussian_blur(behind, 6.0))
    ]
    assert gaps[1] > gaps[0] + 0.5
    assert gaps[1] > gaps[2] + 0.5


def test_grain_is_not_taken_for_a_sharp_background() -> None:
    y, x = np.mgrid[:384, :512]
    inside = (x - 256) ** 2 + (y - 192) ** 2 < 80**2
    tones = np.where(inside, 200 + 30 * ((x // 6 + y // 6) % 2), 128 + 6 * np.sin(x / 30))
    grain = np.random.default_rng(5).normal(0, 3, tones.shape)
    clean, grainy = (
        np.clip(plane, 0, 255).round().astype(np.uint8)[..., None].repeat(3, -1) for plane in (tones, tones + grain)
    )
    gaps = [measured("subject_isolation", pixels)["focus_gap"] for pixels in (clean, grainy)]
    assert gaps[1] == pytest.approx(gaps[0], abs=0.15)


def test_lines_that_meet_are_found() -> None:
    y, x = np.mgrid[:384, :512]
    angle = np.degrees(np.arctan2(y - 0.4 * 384, x - 0.6 * 512))
    spokes = np.where((angle // 18) % 2 == 0, 80, 180).astype(np.uint8)
    lines = seen(np.repeat(spokes[..., None], 3, -1)).lines
    # 19 of 20 photographs of the fitting set stay below 0.16.
    assert lines.convergence.item() > 0.16


def test_a_landscape_is_deeper_than_a_thing_on_a_table() -> None:
    # Sky, hills and a ground whose texture grows coarser towards the viewer, against a disc on a plain ground.
    land = np.zeros((384, 512, 3), np.uint8)
    land[:140], land[140:220], land[220:] = (120, 160, 220), (90, 110, 120), (90, 80, 50)
    for size, top, bottom in ((2, 220, 270), (4, 270, 320), (8, 320, 384)):
        rough = np.random.default_rng(size).integers(-40, 40, (-(-(bottom - top) // size), 512 // size))
        grain = rough.repeat(size, 0).repeat(size, 1)[: bottom - top, :, None]
        land[top:bottom] = np.clip(land[top:bottom] + grain, 0, 255)
    depth = NAMES.index("depth_perspective")
    deep, flat = SCORER.score([taken(land), taken(disc(0.5, 0.5))])
    assert deep.values[depth] > flat.values[depth] + 2
    assert "bluer" in evidence("depth_perspective", land)
