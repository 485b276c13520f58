"""Facts are measured rightly on pictures made by hand, and the wording says them and nothing else."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deploy.mini import critiques, facts

Pixels = NDArray[np.uint8]


def flat(red: int, green: int, blue: int) -> Pixels:
    return np.full((80, 120, 3), (red, green, blue), dtype=np.uint8)


def grey(values: NDArray[np.float64]) -> Pixels:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def stripes(level: bool, period: int = 8) -> Pixels:
    wave = 128 + 100 * np.sign(np.sin(2 * np.pi * (np.arange(120) + 0.5) / period))
    return grey(np.tile(wave, (120, 1)).T if level else np.tile(wave, (120, 1)))


def ramp(side: str) -> Pixels:
    x = np.tile(np.linspace(60, 200, 100), (100, 1))
    return grey({"right": x, "left": x[:, ::-1], "bottom": x.T, "top": x.T[::-1]}[side])


def test_lab_of_the_primaries() -> None:
    """Reference values: Bruce Lindbloom's calculator, sRGB, D65, rounded."""
    reading = facts.read(flat(255, 0, 0)).numbers
    assert reading["lightness"] == pytest.approx(53.24, abs=0.05)
    assert reading["chroma"] == pytest.approx(104.55, abs=0.1)
    assert facts.read(flat(119, 119, 119)).numbers["lightness"] == pytest.approx(50.0, abs=0.2)


@pytest.mark.parametrize(
    ("pixels", "fact", "expected"),
    [
        (flat(30, 30, 30), "brightness", "dark"),
        (flat(119, 119, 119), "brightness", "balanced"),
        (flat(230, 230, 230), "brightness", "bright"),
        (flat(119, 119, 119), "contrast", "soft"),
        (stripes(level=True), "contrast", "strong"),
        (ramp("left"), "contrast", "moderate"),
        (flat(119, 119, 119), "color", "monochrome"),
        (flat(200, 120, 60), "color", "warm"),
        (flat(60, 120, 200), "color", "cool"),
        (flat(200, 120, 60), "saturation", "vivid"),
        (flat(140, 120, 100), "saturation", "muted"),
        (flat(119, 119, 119), "saturation", None),
        (flat(119, 119, 119), "light", "even"),
        *((ramp(side), "light", side) for side in ("left", "right", "top", "bottom")),
        (flat(119, 119, 119), "detail", "smooth"),
        (stripes(level=False), "detail", "fine"),
        (flat(10, 10, 10), "shadows", "deep"),
        (flat(119, 119, 119), "shadows", "open"),
        (flat(250, 250, 250), "highlights", "brilliant"),
        (flat(119, 119, 119), "highlights", "quiet"),
        (stripes(level=True), "lines", "level"),
        (stripes(level=False), "lines", "upright"),
        (flat(119, 119, 119), "lines", "free"),
    ],
)
def test_facts_of_pictures_made_by_hand(pixels: Pixels, fact: str, expected: str | None) -> None:
    assert facts.read(pixels).facts[fact] == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(2, 40))
def test_a_mirrored_picture_has_its_light_on_the_other_side(seed: int, height: int, width: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    one, other = facts.read(pixels).numbers, facts.read(np.ascontiguousarray(pixels[:, ::-1])).numbers
    assert one["right"] == pytest.approx(-other["right"], abs=1e-3)
    for number in ("lightness", "spread", "chroma", "warmth", "top", "blacks", "whites"):
        assert one[number] == pytest.approx(other[number], abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_every_reading_is_finite_and_of_a_known_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = sorted(rng.integers(0, 256, 2).tolist())
    pixels = rng.integers(low, high + 1, (9, 14, 3), dtype=np.uint8)
    reading = facts.read(pixels)
    assert all(np.isfinite(list(reading.numbers.values())))
    assert all(margin >= 0 for margin in reading.margins.values())
    for fact, stated in reading.facts.items():
        assert stated in facts.FACTS[fact] or (fact == "saturation" and stated is None)


def test_size_hardly_matters() -> None:
    """The same scene at 1, 4 and 16 times the working area gives the same facts."""
    x = np.linspace(0, 1, 448)
    down, across = np.meshgrid(x, x, indexing="ij")
    large = np.stack([220 * across**2, 120 + 60 * np.sin(9 * down), 70 * down], -1).astype(np.uint8)
    assert facts.read(large).facts == facts.read(large[::2, ::2]).facts == facts.read(large[::4, ::4]).facts


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4), (1, 10, 3)])
def test_other_arrays_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        facts.read(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(ValueError, match="expected uint8"):
        facts.read(np.zeros((10, 10, 3), dtype=np.float32))


def every_combination() -> list[dict[str, str | None]]:
    combinations = []
    for classes in itertools.product(*facts.FACTS.values()):
        stated: dict[str, str | None] = dict(zip(facts.FACTS, classes, strict=True))
        if stated["color"] == "monochrome":
            if stated["saturation"] == "vivid":
                continue
            stated["saturation"] = None
        combinations.append(stated)
    return combinations


@pytest.mark.parametrize("voice", [None, "ansel", "okeefe"])
def test_a_composed_critique_reads_back_as_true(voice: str | None) -> None:
    choice = random.Random(0)
    for stated in every_combination()[::7]:
        text = critiques.compose(stated, choice, voice)
        back = critiques.read_back(text)
        assert not back.garbled
        assert 5 <= len(back.sentences) <= 6
        assert all(sentence.holds(stated) for sentence in back.sentences)
        assert {s.voice for s in back.sentences} == ({None, voice} if voice else {None})
        assert {"brightness", "contrast", "color", "light"} <= {f for s in back.sentences for f in s.states}
        assert [name for name in critiques.VOICES if critiques.speaks_in(text, name)] == ([voice] if voice else [])


@pytest.mark.parametrize("voice", [None, "ansel", "okeefe"])
def test_what_is_too_close_to_call_is_left_out(voice: str | None) -> None:
    choice = random.Random(0)
    unsure = frozenset({"light", "detail", "lines"})
    for stated in every_combination()[::31]:
        back = critiques.read_back(critiques.compose(stated, choice, voice, unsure))
        spoken_of = {fact for sentence in back.sentences for fact in sentence.states}
        assert "light" not in {s.part for s in back.sentences}
        if voice is None:
            assert not unsure & spoken_of
        assert all(sentence.holds(stated) for sentence in back.sentences)


@pytest.mark.parametrize(("unsure", "unspoken"), [("saturation", {"saturation"}), ("color", {"color", "saturation"})])
def test_a_color_that_is_too_close_to_call_is_left_out_of_the_color_sentence(unsure: str, unspoken: set[str]) -> None:
    choice = random.Random(0)
    for stated in every_combination()[::31]:
        back = critiques.read_back(critiques.compose(stated, choice, None, frozenset({unsure})))
        spoken_of = {fact for sentence in back.sentences for fact in sentence.states}
        assert not unspoken & {fact for s in back.sentences if s.part == "color" for fact in s.states}
        assert unsure not in spoken_of
        assert unsure == "color" or "color" in spoken_of


def test_margins_tell_what_is_close_to_a_border() -> None:
    assert "brightness" not in facts.read(flat(119, 119, 119)).unsure
    almost_dark = facts.read(flat(91, 91, 91))
    assert almost_dark.numbers["lightness"] == pytest.approx(facts.DARK_BELOW, abs=1.0)
    assert "brightness" in almost_dark.unsure


def test_the_reader_can_fail() -> None:
    back = critiques.read_back("This is a dark photograph with soft contrast. Zone the the light. The light is spread")
    assert [dict(s.states) for s in back.sentences] == [{"brightness": "dark", "contrast": "soft"}]
    assert back.garbled == ("Zone the the light.", "The light is spread")
    (sentence,) = back.sentences
    assert not sentence.holds({**every_combination()[0], "brightness": "bright"})


def test_wording_is_consistent() -> None:
    critiques.check_wording()
    stated = {(fact, value) for s in critiques.SENTENCES.values() for fact, value in s.states.items()}
    assert stated == {(fact, value) for fact, values in facts.FACTS.items() for value in values}


def test_wording_is_varied() -> None:
    choice = random.Random(0)
    stated = every_combination()[100]
    assert len({critiques.compose(stated, choice) for _ in range(100)}) > 60
