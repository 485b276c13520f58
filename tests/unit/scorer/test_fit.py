"""Heads and prompt tables fitted on drawn pictures with known ratings, by the small CLIP of this repository."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mondrian.scorer.v1 import scorer_pb2
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from services.core.batching.engine import Computed
from services.core.errors import ConfigurationError
from services.core.settings import MINI_DIR
from services.scorer import learned_file
from services.scorer.calibration import Calibration
from services.scorer.clip import Backbone, fixed_picture, load_backbone
from services.scorer.conversions import score_response
from services.scorer.dimensions import NAMES
from services.scorer.fit import main
from services.scorer.learned import HEAD_WEIGHT, Learned
from services.scorer.loading import load_scorer
from services.scorer.references import scores_from_json, scores_to_json
from services.scorer.ridge import spearman
from services.scorer.scoring import Picture, Scorer, Scores
from services.scorer.settings import ScorerSettings
from tests.pictures import picture

CLIP = MINI_DIR / "models" / "clip"
COUNT = 120
COMPOSITION, FOCUS, HARMONY = (NAMES.index(name) for name in ("composition", "focus_sharpness", "color_harmony"))

Rating = Callable[[Image.Image, int], float]


def _warmth(image: Image.Image, _: int) -> float:
    pixels = np.asarray(image, float)
    return float((pixels[..., 0] - pixels[..., 2]).mean())


def _light(image: Image.Image, _: int) -> float:
    return float(np.asarray(image, float).mean())


def _chance(_: Image.Image, seed: int) -> float:
    return float(np.random.default_rng(1000 + seed).normal())


def _rated(folder: Path, **ratings: Rating) -> Path:
    """Writes the pictures and the ratings of each dimension, and returns the CSV file."""
    folder.mkdir(exist_ok=True)
    lines = [f"file,{','.join(ratings)}"]
    for seed in range(COUNT):
        image = picture(seed)
        image.save(folder / f"{seed:03d}.png")
        lines.append(f"{seed:03d}.png,{','.join(f'{rating(image, seed):.4f}' for rating in ratings.values())}")
    path = folder / "ratings.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(CLIP, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `heads.safetensors`: composition rated by warmth, focus by lightness, lighting by chance."""
    folder = tmp_path_factory.mktemp("fitted")
    table = _rated(folder / "photos", composition=_warmth, focus_sharpness=_light, lighting=_chance)
    arguments = ["--ratings", str(table), "--photos", str(table.parent), "--clip-path", str(CLIP)]
    assert main([*arguments, "--out", str(folder / "heads.safetensors"), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def learned(fitted: Path) -> Learned:
    return learned_file.read(fitted / "heads.safetensors")


@pytest.fixture(scope="module")
def scorer(learned: Learned, backbone: Backbone) -> Scorer:
    return Scorer(Calibration.load(), learned=learned, backbone=backbone)


def _score(scorer: Scorer, seeds: range) -> list[Scores]:
    return scorer.score([Picture.of(picture(seed)) for seed in seeds])


def test_a_head_is_kept_where_the_ratings_prefer_it_and_nowhere_else(learned: Learned) -> None:
    assert learned.heads is not None
    kept = np.flatnonzero(learned.heads.weight)
    assert kept.tolist() == [COMPOSITION, FOCUS]
    assert learned.heads.weight[COMPOSITION] == HEAD_WEIGHT


def test_prompts_speak_where_nobody_rated_and_never_of_focus(learned: Learned) -> None:
    assert learned.prompts is not None
    asked = {NAMES[d] for d in np.flatnonzero(learned.prompts.weight)}
    assert asked == {*NAMES} - {"composition", "focus_sharpness", "lighting"}


def test_clip_never_drives_focus(learned: Learned) -> None:
    assert learned.heads is not None
    assert not learned.heads.embedding[FOCUS].any()
    assert learned.heads.embedding[COMPOSITION].any()


def test_unseen_pictures_are_ordered_as_people_would(scorer: Scorer) -> None:
    unseen = range(500, 560)
    truth = np.array([_warmth(picture(seed), seed) for seed in unseen])
    alone = np.array([scores.values for scores in _score(Scorer(Calibration.load()), unseen)])
    blended = np.array([scores.values for scores in _score(scorer, unseen)])
    assert spearman(blended[:, COMPOSITION], truth) > 0.6 > spearman(alone[:, COMPOSITION], truth)


def test_evidence_and_basis_say_that_clip_took_part(scorer: Scorer) -> None:
    (scores,) = _score(scorer, range(1))
    by_name = dict(zip(NAMES, scores.dimensions, strict=True))
    assert by_name["composition"].evidence[-1].startswith("A CLIP head fitted on people's ratings places it ")
    assert by_name["focus_sharpness"].evidence[-1].startswith("A head fitted on people's ratings places it ")
    assert by_name["depth_perspective"].evidence[-1].startswith("CLIP places it ")
    assert by_name["lighting"].second is None
    reply = score_response(Computed("0", scores, cached=False), scorer.id, None, "", 0.0)
    basis = {NAMES[d]: one.basis for d, one in enumerate(reply.dimensions)}
    assert basis["composition"] == basis["depth_perspective"] == scorer_pb2.BASIS_SIGNAL_AND_CLIP
    assert basis["focus_sharpness"] == basis["lighting"] == scorer_pb2.BASIS_SIGNAL


def test_a_monochrome_picture_is_not_asked_for_its_colours(learned: Learned, backbone: Backbone) -> None:
    assert learned.prompts is not None
    asked = replace(learned.prompts, weight=np.full(len(NAMES), 0.25))
    scorer = Scorer(Calibration.load(), learned=replace(learned, heads=None, prompts=asked), backbone=backbone)
    color, grey = scorer.score([Picture.of(picture(3)), Picture.of(picture(3).convert("L").convert("RGB"))])
    assert color.dimensions[HARMONY].second is not None
    assert grey.dimensions[HARMONY].second is None
    assert grey.dimensions[COMPOSITION].second is not None


def test_disagreement_lowers_the_confidence(scorer: Scorer) -> None:
    measured, blended = _score(Scorer(Calibration.load()), range(8)), _score(scorer, range(8))
    for before, after in zip(measured, blended, strict=True):
        for one, other in zip(before.dimensions, after.dimensions, strict=True):
            if other.second is None:
                assert other.confidence == pytest.approx(one.confidence)
            elif one.confidence:
                assert other.confidence < one.confidence


def test_what_was_said_survives_a_release(scorer: Scorer) -> None:
    (scores,) = _score(scorer, range(1))
    again = scores_from_json(scores_to_json(scores))
    assert [one.evidence for one in again.dimensions] == [one.evidence for one in scores.dimensions]
    assert again.values == pytest.approx(scores.values, abs=1e-3)


def test_scores_of_another_fit_do_not_compare(scorer: Scorer, learned: Learned, backbone: Backbone) -> None:
    assert scorer.id.startswith("signal+clip@")
    assert learned.prompts is not None
    other = Learned(learned.backbone, learned.fixed, None, learned.prompts, learned.source)
    assert Scorer(Calibration.load(), learned=other, backbone=backbone).id != scorer.id


def test_the_service_loads_what_the_settings_name(fitted: Path, scorer: Scorer) -> None:
    heads = fitted / "heads.safetensors"
    settings = ScorerSettings.load(clip_path=CLIP, heads_path=heads, dtype="float32", device="cpu")
    assert load_scorer(settings).id == scorer.id
    with pytest.raises(ConfigurationError, match="set MONDRIAN_SCORER_CLIP_PATH"):
        load_scorer(ScorerSettings.load(heads_path=heads, device="cpu"))
    with pytest.raises(ConfigurationError, match=r"scorer_heads\.safetensors does not exist: fit it with"):
        load_scorer(ScorerSettings.load(clip_path=CLIP, device="cpu"))
    assert ScorerSettings.load(clip_path=CLIP).heads_file == CLIP / learned_file.FILE_NAME


def test_heads_of_another_backbone_are_refused(learned: Learned, backbone: Backbone, tmp_path: Path) -> None:
    other = tmp_path / "clip"
    shutil.copytree(CLIP, other)
    config = other / "open_clip_config.json"
    config.write_text(config.read_text().replace("0.45", "0.44"))
    changed = load_backbone(other, torch.device("cpu"), torch.float32)
    with pytest.raises(ConfigurationError, match=r"belong to backbone .* fit them anew"):
        Scorer(Calibration.load(), learned=learned, backbone=changed)
    moved = Learned(learned.backbone, -learned.fixed, learned.heads, learned.prompts, learned.source)
    with pytest.raises(ConfigurationError, match="embeds the fixed picture otherwise"):
        Scorer(Calibration.load(), learned=moved, backbone=backbone)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"head.weight": np.zeros(3, np.float32)}, "incomplete .head is not of 8 dimensions"),
        ({"head.bias": np.full(8, np.nan, np.float32)}, "not finite"),
        ({"prompt.knots": np.zeros((29, 8))}, "the knots of prompt do not increase"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    fitted: Path, tmp_path: Path, change: dict[str, np.ndarray], sentence: str
) -> None:
    whole = fitted / "heads.safetensors"
    with safe_open(whole, framework="numpy") as file:
        metadata = file.metadata()
    path = tmp_path / "changed.safetensors"
    save_file({**load_file(whole), **change}, path, metadata)
    with pytest.raises(ConfigurationError, match=sentence):
        learned_file.read(path)


def test_a_damaged_or_foreign_file_is_refused(fitted: Path, tmp_path: Path) -> None:
    path = tmp_path / "heads.safetensors"
    path.write_bytes((fitted / "heads.safetensors").read_bytes()[:1000])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        learned_file.read(path)
    save_tensors({"visual.proj": torch.zeros(3, dtype=torch.bfloat16)}, path)
    with pytest.raises(ConfigurationError, match="other measures"):
        learned_file.read(path)
    save_file(load_file(fitted / "heads.safetensors"), path, {"format": "1", "measures": "0"})
    with pytest.raises(ConfigurationError, match="fitted with other measures"):
        learned_file.read(path)


def test_ratings_by_chance_leave_everything_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _rated(tmp_path / "photos", composition=_chance)
    (table.parent / "007.png").write_bytes(b"not a photograph")
    out = tmp_path / "heads.safetensors"
    assert main(["--ratings", str(table), "--photos", str(table.parent), "--out", str(out), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert f"{COUNT - 1} photographs in {COUNT - 1} groups, 10-fold" in printed
    assert "composition" in printed
    assert "Nothing is kept beside the measures" in printed
    assert not out.exists()


def test_a_head_needs_no_clip(tmp_path: Path) -> None:
    table = _rated(tmp_path / "photos", composition=_light)
    out = tmp_path / "heads.safetensors"
    assert main(["--ratings", str(table), "--photos", str(table.parent), "--out", str(out), "--quiet"]) == 0
    scorer = load_scorer(ScorerSettings.load(heads_path=out, device="cpu"))
    assert scorer.id.startswith("signal+heads@")
    (scores,) = _score(scorer, range(1))
    assert scores.dimensions[COMPOSITION].evidence[-1].startswith("A head fitted on people's ratings places it ")
    basis = score_response(Computed("0", scores, cached=False), scorer.id, None, "", 0.0).dimensions[COMPOSITION].basis
    assert basis == scorer_pb2.BASIS_SIGNAL


def test_prompts_and_tables_need_no_ratings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The small CLIP has read captions of drawn scenes, not one of the words that lighting is asked by.
    table = _rated(tmp_path / "photos", composition=_chance)
    out, tables = tmp_path / "heads.safetensors", tmp_path / "calibration.json"
    arguments = ["--photos", str(table.parent), "--clip-path", str(CLIP), "--out", str(out)]
    assert main([*arguments, "--calibration-out", str(tables)]) == 0
    printed = capsys.readouterr()
    assert "Measuring photographs: 120 of 120" in printed.err
    assert "tell no photographs apart, and are not asked, in: lighting." in printed.out
    made = learned_file.read(out)
    assert made.heads is None
    assert Calibration.load(tables).count == COUNT


def test_what_cannot_be_fitted_is_said_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    table = _rated(photos, composition=lambda _, seed: 5.0)

    def said(*arguments: str) -> str:
        assert main(["--photos", str(photos), "--quiet", *arguments]) == 2
        return capsys.readouterr().err

    out = ("--out", str(tmp_path / "heads.safetensors"))
    assert "Name the file to write" in said("--ratings", str(table))
    assert "There is nothing to fit" in said(*out)
    for option in ("--out", "--calibration-out"):
        nowhere = (*out, "--ratings", str(table), option, str(tmp_path / "none" / "file"))
        assert f"{tmp_path / 'none'} is no folder" in said(*nowhere)
    assert "All ratings of composition are equal" in said("--ratings", str(table), *out)
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:50]))
    assert "49 photographs are rated in composition: give 100 or more" in said("--ratings", str(table), *out)
    grouped = [f"{line},{i % 3}" for i, line in enumerate(lines[1:])]
    table.write_text("\n".join([f"{lines[0]},group", *grouped]))
    assert "fewer than 10 groups" in said("--ratings", str(table), *out)
    table.write_text("\n".join([lines[0], *(line.replace("5.0", f"{i}.0") for i, line in enumerate(lines[1:]))]))
    (photos / "007.png").unlink()
    assert "1 of 120 rated photographs are not below" in said("--ratings", str(table), *out)
    assert "holds no open_clip_config.json" in said("--clip-path", str(photos), *out)


def test_the_backbone_pads_and_is_deterministic(backbone: Backbone) -> None:
    picture = fixed_picture()
    again = backbone.embed([picture, picture[:, ::-1].copy()])
    np.testing.assert_allclose(again[0], backbone.embed([picture])[0], atol=1e-5)
    assert np.linalg.norm(again, axis=1) == pytest.approx([1, 1], abs=1e-5)
    # A strip goes in whole: what is at its ends changes the embedding.
    strip = np.full((32, 512, 3), 128, np.uint8)
    changed = strip.copy()
    changed[:, -64:] = (255, 0, 0)
    whole, other = backbone.embed([strip, changed])
    assert whole @ other < 0.999


def test_a_folder_without_safe_weights_is_refused(tmp_path: Path) -> None:
    shutil.copy(CLIP / "open_clip_config.json", tmp_path)
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ConfigurationError, match="a pickle, which is never loaded"):
        load_backbone(tmp_path, torch.device("cpu"), torch.float32)
    with pytest.raises(ConfigurationError, match="does not exist; set MONDRIAN_SCORER_CLIP_PATH"):
        load_backbone(tmp_path / "none", torch.device("cpu"), torch.float32)
