"""Photographs of skimage.data, on which nothing was fitted, against changed versions of themselves.

The short form of `python -m services.scorer.evaluate`: the same trials on four photographs. A share over so few is
coarse, so the bounds lie below what hundreds of photographs reach; README has those figures.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.scorer import perturb, trials
from services.scorer.calibration import Calibration
from services.scorer.dimensions import NAMES
from services.scorer.evaluate import main
from services.scorer.perturb import LOWERING
from services.scorer.scoring import Scorer
from services.scorer.trials import Figures, Subject, separation
from tests.pictures import encoded, picture
from tests.unit.scorer import making
from tests.unit.scorer.pictures import COLOURFUL, photograph


@pytest.fixture(scope="module")
def figures() -> Figures:
    scorer = Scorer(Calibration.load())
    found = Figures()
    for name in COLOURFUL:
        found.add(trials.attempt(scorer, Subject(name, photograph(name))))
    return found


@pytest.mark.parametrize(
    ("dimension", "change"), [(dimension, change) for dimension, changes in LOWERING.items() for change in changes]
)
def test_what_must_lower_a_dimension_does(figures: Figures, dimension: str, change: str) -> None:
    counts = figures.order[dimension, change]
    assert counts.all == len(COLOURFUL) * len(LOWERING[dimension][change])
    # A cool cast takes a warm one away, and two of the four are warm.
    sure = dimension in ("focus_sharpness", "color_harmony") and change != "colour cast"
    assert counts.share >= (0.9 if sure else 0.75)


def test_most_changes_move_their_own_dimension_most(figures: Figures) -> None:
    for dimension in ("focus_sharpness", "lighting", "color_harmony"):
        counts = [counts for (name, _), counts in figures.specific.items() if name == dimension]
        assert sum(one.right for one in counts) >= 0.8 * sum(one.all for one in counts)


@pytest.mark.parametrize("change", ["flip", "twice the size", "JPEG 90 at full size", "JPEG 97 at full size"])
def test_what_must_not_matter_does_not(figures: Figures, change: str) -> None:
    counts = [figures.unchanged[change, name] for name in NAMES]
    tried = len(COLOURFUL) - (change == "twice the size")  # of a photograph below 512 px the measures see less
    assert sum(one.all for one in counts) == tried * len(NAMES)
    assert sum(one.right for one in counts) >= 0.9 * sum(one.all for one in counts)


def test_blur_flatters_nothing(figures: Figures) -> None:
    counts = [counts for name, counts in figures.not_raised.items() if name != "focus_sharpness"]
    assert sum(one.right for one in counts) >= 0.9 * sum(one.all for one in counts)


def test_half_the_size_of_a_large_photograph_scores_the_same() -> None:
    trial = trials.attempt(Scorer(Calibration.load()), Subject("retina", photograph("retina")), dimensions=())
    whole, half = trial.same["half size"]
    np.testing.assert_allclose(half, whole, atol=0.3)


def test_a_small_photograph_is_moved_by_every_motion_and_reduced_only_below_its_size() -> None:
    small = perturb.resize(photograph("chelsea"), 240)
    for length, degrees in ((5, 0), (9, 60), (15, 90)):
        assert (perturb.motion_blur(small, length, degrees) != small).any()
    trial = trials.attempt(Scorer(Calibration.load()), Subject("small", small), dimensions=("focus_sharpness",))
    assert {level for _, change, level in trial.lowered if change == "downscaling"} == {"128 px"}


def test_the_area_under_the_curve() -> None:
    assert separation([3, 2, 1, 0], [True, True, False, False]) == 1
    assert separation([3, 2, 1, 0], [True, False, True, False]) == 0.75
    assert separation([1, 1], [True, False]) == 0.5
    assert np.isnan(separation([1, 2], [True, True]))


def test_leave_one_out_compares_with_the_others_only() -> None:
    steady = making.advisor([float(value) for value in np.linspace(6, 8, 20)])
    counts = trials.flagged_alone(steady)
    assert counts.all == 20
    assert 0 < counts.right <= 4
    assert trials.flagged_alone(making.advisor([7.0] * 19 + [1.0])).right == 1


def test_the_command_prints_figures_and_says_what_it_could_not_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photograph("chelsea")).resize((192, 128)).save(folder / "cat.png")
    (folder / "broken.jpg").write_bytes(encoded(picture(1), "JPEG")[:200])
    outline = "0.26,0.23 0.78,0.23 0.78,0.78 0.26,0.78"
    (tmp_path / "labels.csv").write_text(f'file,level,depth,subject\ncat.png,1,object,"{outline}"\n')
    target = tmp_path / "figures.json"
    arguments = ["--photos", str(folder), "--labels", str(tmp_path / "labels.csv"), "--json", str(target)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "broken.jpg is left out" in printed.err
    assert "on 1 photographs" in printed.out
    assert "focus_sharpness falls: gaussian blur" in printed.out
    assert "composition falls: subject cut by the edge (n 4" in printed.out
    assert "spread between p5 and p95: not measured" in printed.out
    content = json.loads(target.read_text())
    by_name = {figure["name"]: figure for figure in content["figures"]}
    assert by_name["visual_balance falls: rotation"]["count"] == 3
    assert by_name["depth_perspective: scenes above objects (AUC)"]["value"] is None


@pytest.mark.parametrize("outline", ["mask.png", "0.1,0.2,0.3 0.4,0.5", "0.5"])
def test_an_outline_that_is_none_is_named(outline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(1).save(tmp_path / "one.png")
    (tmp_path / "labels.csv").write_text(f'file,level,depth,subject\none.png,,,"{outline}"\n')
    assert main(["--photos", str(tmp_path), "--labels", str(tmp_path / "labels.csv")]) == 2
    assert "is no outline: give corners as x,y in shares of the frame." in capsys.readouterr().err


def test_a_folder_without_photographs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--photos", str(tmp_path)]) == 2
    assert f"No photographs lie below {tmp_path}" in capsys.readouterr().err
