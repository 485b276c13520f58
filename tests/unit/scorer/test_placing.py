"""Where the subject lies, how level the frame is and how its weights answer each other, in pictures drawn for it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from services.scorer.dimensions import NAMES
from tests.unit.scorer.pictures import Pixels, disc, solid
from tests.unit.scorer.seeing import SCORER, advice, evidence, measured, seen, taken


@pytest.mark.parametrize(("x", "y"), [(0.3, 0.35), (0.5, 0.5), (0.7, 0.3)])
def test_the_subject_is_found_where_it_is(x: float, y: float) -> None:
    scene = seen(disc(x, y))
    subject = scene.subject
    assert subject.x.item() == pytest.approx(x, abs=0.04)
    assert subject.y.item() == pytest.approx(y, abs=0.04)
    assert subject.concentration.item() > 0.8
    inside = scene.subject.map[0, int(y * 48), int(x * 64)].item()
    assert inside > 0.9
    assert scene.subject.map[0, 2, 2].item() < 0.1


def test_a_subject_on_a_third_is_better_placed_than_one_between() -> None:
    on, between = measured("composition", disc(1 / 3, 1 / 3)), measured("composition", disc(0.2, 0.75))
    assert on["power_point_distance"] < 0.05 < between["power_point_distance"]
    scores = [SCORER.score([taken(p)])[0].values[0] for p in (disc(1 / 3, 1 / 3), disc(0.2, 0.75))]
    assert scores[0] > scores[1]
    assert "upper left crossing of the thirds" in evidence("composition", disc(1 / 3, 1 / 3))


def _horizon(degrees: float) -> Pixels:
    # Drawn four times as large and reduced: a lens draws no staircase.
    rows, columns = 4 * 384, 4 * 512
    y, x = np.mgrid[:rows, :columns]
    below = (y - rows * 0.45) > np.tan(np.radians(degrees)) * (x - columns / 2)
    large = Image.fromarray(np.where(below, 70, 190).astype(np.uint8))
    return np.asarray(large.resize((512, 384), Image.Resampling.BOX).convert("RGB"))


@pytest.mark.parametrize("degrees", [-8.0, -3.0, 2.0, 6.0])
def test_a_leaning_horizon_is_measured(degrees: float) -> None:
    values = measured("visual_balance", _horizon(degrees))
    assert values["tilt"] == pytest.approx(degrees, abs=0.6)
    sentence = evidence("visual_balance", _horizon(degrees))
    assert f"degrees {'clockwise' if degrees > 0 else 'counter-clockwise'} from level" in sentence


def test_a_level_horizon_is_better_than_a_leaning_one() -> None:
    level, leaning = (SCORER.score([taken(_horizon(angle))])[0] for angle in (0.0, 6.0))
    for name in ("visual_balance", "composition"):
        assert level.values[NAMES.index(name)] > leaning.values[NAMES.index(name)] + 0.5


def test_the_weight_of_the_frame_is_told_from_its_side() -> None:
    values = measured("visual_balance", disc(0.8, 0.5))
    assert values["weight_x"] > 0.55
    assert "right of the centre" in evidence("visual_balance", disc(0.8, 0.5))
    assert measured("visual_balance", disc(0.5, 0.5))["symmetry"] > 0.9


def test_what_lies_across_a_diagonal_answers() -> None:
    def patches(*corners: tuple[int, int]) -> Pixels:
        pixels = solid((128, 128, 128), (384, 512))
        for row, column in corners:
            pixels[row : row + 60, column : column + 60] = 230
        return pixels

    answered = measured("visual_balance", patches((40, 60), (284, 392)))
    alone = measured("visual_balance", patches((40, 60), (284, 60)))
    assert answered["offset"] < 0.01
    assert answered["axes"] < alone["axes"]
    assert alone["left_right"] < -0.2


def test_nobody_is_told_to_do_what_is_done_already() -> None:
    assert "onto a third" not in advice("composition", disc(1 / 3, 1 / 3))
    assert "onto a third" in advice("composition", disc(0.22, 0.83))
    assert "Shift the frame down" in advice("visual_balance", disc(0.5, 0.85, radius=0.1))
    assert "Shift the frame up" in advice("visual_balance", disc(0.5, 0.15, radius=0.1))
    assert "horizon" not in advice("visual_balance", disc(0.5, 0.85))
