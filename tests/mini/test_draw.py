"""The drawn pictures: the same from the same seed, different from different seeds, and true to their attributes."""

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deploy.mini.draw import ATTRIBUTES, scene, texture
from deploy.mini.draw.manners import luminance
from deploy.mini.draw.noise import fractal
from deploy.mini.draw.textures import FAMILIES
from deploy.mini.draw_advisors import ADVISORS, MASTERS, MOST_BYTES, OUT, draw_advisor
from services.core.dimensions import DIMENSIONS

KINDS = ATTRIBUTES["kind"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_is_the_same_from_the_same_seed(kind: str) -> None:
    first, second = (scene(11, 48, 64, kind=kind) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels)
    assert (first.caption, first.attributes) == (second.caption, second.attributes)
    assert first.attributes["kind"] == kind


@pytest.mark.parametrize("family", FAMILIES)
def test_a_texture_is_the_same_from_the_same_seed_and_not_from_another(family: str) -> None:
    first = texture(5, 40, 56, (family,))
    assert first.shape == (40, 56, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, texture(5, 40, 56, (family,)))
    assert not np.array_equal(first, texture(6, 40, 56, (family,)))


def test_different_seeds_draw_different_pictures() -> None:
    drawn = np.stack([scene(seed, 32, 32).pixels.astype(float) for seed in range(40)])
    apart = np.abs(drawn[:, None] - drawn[None]).mean(axis=(2, 3, 4)) + 255 * np.eye(len(drawn))
    assert apart.min() > 4


@given(seed=st.integers(0, 2**48), manner=st.sampled_from([None, "ansel", "okeefe"]))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_every_attribute_has_a_word_of_its_list(seed: int, manner: str | None) -> None:
    drawn = scene(seed, 36, 48, manner)
    assert drawn.pixels.shape == (36, 48, 3)
    assert drawn.attributes.keys() == ATTRIBUTES.keys()
    for name, word in drawn.attributes.items():
        assert word in ATTRIBUTES[name], f"{name} is {word}"
    assert drawn.caption.endswith(".")
    assert "  " not in drawn.caption


def test_a_picture_has_the_same_composition_at_every_size() -> None:
    for kind in ("mountains", "flower", "skull", "dunes"):
        small, large = scene(4, 60, 80, kind=kind), scene(4, 240, 320, kind=kind)
        assert small.caption == large.caption
        shrunk = np.asarray(Image.fromarray(large.pixels).resize((80, 60), Image.Resampling.BOX), float)
        together = np.corrcoef(shrunk.ravel(), small.pixels.astype(float).ravel())[0, 1]
        assert together > 0.85, kind


def test_the_monochrome_manner_is_grey_and_spans_all_zones() -> None:
    for seed in range(6):
        drawn = scene(seed, 64, 96, "ansel")
        assert drawn.attributes["palette"] == "monochrome"
        assert np.array_equal(drawn.pixels[..., 0], drawn.pixels[..., 2])
        assert np.quantile(drawn.pixels, 0.01) < 45
        assert np.quantile(drawn.pixels, 0.995) > 190


def test_the_subject_stands_on_the_side_that_is_told() -> None:
    """A bright or dark subject on plain ground pulls the centre of what differs from the ground to its side."""
    centres: dict[str, list[float]] = {"left": [], "centre": [], "right": []}
    for seed in range(40):
        drawn = scene(seed, 48, 72, kind="flower")
        difference = np.abs(drawn.pixels.astype(float) - np.median(drawn.pixels, axis=(0, 1))).sum(axis=2)
        inside = difference > np.quantile(difference, 0.8)
        centres[drawn.attributes["subject_side"]].append(float(np.nonzero(inside)[1].mean()) / 72)
    assert np.mean(centres["left"]) < 0.42 < np.mean(centres["centre"]) < 0.58 < np.mean(centres["right"])


def test_nights_are_darker_than_days() -> None:
    light: dict[str, list[float]] = {"day": [], "night": []}
    for seed in range(60):
        drawn = scene(seed, 32, 48, kind="mountains")
        if drawn.attributes["time"] in light:
            light[drawn.attributes["time"]].append(float(luminance(drawn.pixels).mean()))
    assert np.mean(light["night"]) < 0.6 * np.mean(light["day"])


def test_noise_has_the_spectrum_of_natural_images() -> None:
    """With gain 0.5 each octave has half the amplitude of the one before: power falls as about f^-2."""
    power = sum(
        np.abs(np.fft.fft2(fractal(np.random.default_rng(seed), 128, 128, cells=1, gain=0.5))) ** 2 for seed in range(8)
    )
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128) * 128, np.fft.fftfreq(128) * 128))
    bands = [2, 4, 8, 16, 32]
    means = [np.asarray(power)[(frequency >= b) & (frequency < 2 * b)].mean() for b in bands]
    slope = np.polyfit(np.log(bands), np.log(means), 1)[0]
    assert -4.2 < slope < -1.8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scene(0, 32, 32, "weston"), "Unknown manner 'weston'"),
        (lambda: scene(0, 32, 32, kind="castle"), "Unknown kind of scene 'castle'"),
        (lambda: texture(0, 32, 32, ("wool",)), "Unknown family of textures 'wool'"),
    ],
)
def test_an_unknown_word_is_refused_with_the_known_ones(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("advisor", ADVISORS)
def test_a_sample_advisor_is_complete_and_honest(advisor: str) -> None:
    folder = OUT / advisor
    about = yaml.safe_load((folder / "advisor.yaml").read_text(encoding="utf-8"))
    entries = yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))
    files = sorted((folder / "references").iterdir())
    assert about["id"] == advisor
    assert f"None is a work by {MASTERS[advisor]}" in about["bio"]
    assert "sample" in about["name"]
    assert len(files) >= 24
    assert [path.name for path in files] == sorted(entries)
    taught = set()
    for path in files:
        with Image.open(path) as picture:
            assert max(picture.size) in range(640, 769)
            assert picture.convert("RGB").getextrema() != ((0, 0),) * 3
        assert path.stat().st_size <= MOST_BYTES
        entry = entries[path.name]
        assert set(entry) == {"title", "year", "location", "description", "significance", "tags", "best_for"}
        assert f"not a work by {MASTERS[advisor]}" in entry["description"]
        assert entry["year"] == 2026
        taught |= set(entry["best_for"])
        assert set(entry["best_for"]) <= set(DIMENSIONS)
    assert taught >= set(DIMENSIONS) - ({"color_harmony"} if advisor == "ansel" else set())
    assert len({entry["title"] for entry in entries.values()}) == len(files)


def test_an_advisor_is_drawn_again_from_its_seeds(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)
    about, drawings = ADVISORS["okeefe"]
    monkeypatch.setitem(ADVISORS, "okeefe", (about, drawings[:1]))
    assert draw_advisor("okeefe", tmp_path / "okeefe") == 1
    name = sorted((tmp_path / "okeefe" / "references").iterdir())[0].name
    again = np.asarray(Image.open(tmp_path / "okeefe" / "references" / name), int)
    kept = np.asarray(Image.open(OUT / "okeefe" / "references" / name), int)
    assert np.abs(again - kept).mean() < 1.0
