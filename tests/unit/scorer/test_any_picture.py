"""Eight scores for any picture whatever: odd sizes, one tone, noise, in a batch or alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from services.scorer import perturb
from services.scorer.dimensions import DIMENSIONS
from tests.unit.scorer.pictures import (
    COLOURFUL,
    Pixels,
    grey_photograph,
    noise,
    photograph,
    sepia_photograph,
    solid,
    two_colours,
)
from tests.unit.scorer.seeing import SCORER, taken

ODD = {
    "1x1": solid((90, 120, 40), (1, 1)),
    "8000x20": np.resize(photograph("coffee"), (20, 8000, 3)),
    "20x8000": np.resize(photograph("coffee"), (8000, 20, 3)),
    "black": solid((0, 0, 0)),
    "white": solid((255, 255, 255)),
    "noise": noise((300, 400)),
    "two colours": two_colours(),
    "grey": grey_photograph(),
    "sepia": sepia_photograph(),
    "2x3": noise((2, 3)),
}


@pytest.mark.parametrize("name", ODD)
def test_any_picture_has_eight_finite_scores_and_says_why(name: str) -> None:
    (scores,) = SCORER.score([taken(ODD[name])])
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
    (odd,) = SCORER.score([taken(ODD[name])])
    (real,) = SCORER.score([taken(photograph("coffee"))])
    for strange, usual in zip(odd.dimensions, real.dimensions, strict=True):
        assert strange.confidence < 0.6 * usual.confidence


@pytest.mark.parametrize(("ground", "tone"), [(255, "white"), (0, "black")])
def test_a_cut_out_is_trusted_less_where_its_ground_decides(ground: int, tone: str) -> None:
    cat = photograph("chelsea")
    rows, columns = np.mgrid[: cat.shape[0], : cat.shape[1]]
    oval = np.hypot(rows / cat.shape[0] - 0.5, columns / cat.shape[1] - 0.5) < 0.4
    cut_out = np.where(oval[..., None], cat, np.uint8(ground))
    (scene, studio) = SCORER.score([taken(cat), taken(cut_out)])
    composition, lighting = studio.dimensions[:2]
    assert composition.confidence < 0.6 * scene.dimensions[0].confidence
    # "Needs work" asks for 0.4.
    assert lighting.confidence < 0.4 < scene.dimensions[1].confidence
    assert f"stands on plain {tone}" in lighting.evidence[0]
    assert "because the ground is plain" in " ".join(composition.evidence)
    assert "plain" not in " ".join((*scene.dimensions[0].evidence, *scene.dimensions[1].evidence))


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
    (scores,) = SCORER.score([taken(pixels)])
    assert np.isfinite(scores.values).all()
    assert ((scores.values >= 0) & (scores.values <= 10)).all()
    assert all(0 <= one.confidence <= 1 for one in scores.dimensions)


def test_a_batch_gives_what_each_picture_gives_alone() -> None:
    pictures = [taken(np.resize(photograph(name), (300, 400, 3))) for name in COLOURFUL]
    together = SCORER.score(pictures)
    for picture, scores in zip(pictures, together, strict=True):
        (alone,) = SCORER.score([picture])
        np.testing.assert_allclose(alone.values, scores.values, atol=1e-3)


@pytest.mark.parametrize("name", COLOURFUL)
def test_a_mirrored_photograph_scores_the_same(name: str) -> None:
    straight, mirrored = SCORER.score([taken(photograph(name)), taken(perturb.flip(photograph(name)))])
    np.testing.assert_allclose(mirrored.values, straight.values, atol=0.3)
