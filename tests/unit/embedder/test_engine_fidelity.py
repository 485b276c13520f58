"""What is measured of two engines, and what falls below the bound."""

from __future__ import annotations

import numpy as np
import pytest

from services.embedder import fidelity
from services.embedder.encoder import Matrix
from services.embedder.fidelity import Fidelity


def unit(rows: np.ndarray) -> Matrix:
    made: Matrix = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return made


def rows(seed: int = 0) -> np.ndarray:
    """Returns 40 directions that have much in common, as embeddings have."""
    return np.random.default_rng(seed).normal(size=(40, 64)) + 2.0


def test_the_same_is_one_throughout() -> None:
    same = fidelity.measure(unit(rows()), unit(rows()))
    assert (same.cosine, same.centred_cosine, same.nearest) == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)
    assert same.shortfalls() == []


def test_a_little_noise_passes_and_more_is_named() -> None:
    noise = np.random.default_rng(1).normal(size=(40, 64))
    assert fidelity.measure(unit(rows()), unit(rows() + 1e-4 * noise)).shortfalls() == []
    worse = fidelity.measure(unit(rows()), unit(rows() + 0.1 * noise))
    assert len(worse.shortfalls()) == 3
    assert worse.shortfalls()[1] == f"centred cosine {worse.centred_cosine:.4f} (at least 0.998)"


def test_what_all_have_in_common_hides_nothing() -> None:
    """Pictures that have become each other: the cosine hardly notices, the other two do."""
    common = rows() + 100.0
    swapped = common[np.roll(np.arange(40), 1)]
    found = fidelity.measure(unit(common), unit(swapped))
    assert found.cosine > 0.999
    assert found.centred_cosine < 0.5
    assert found.nearest < 0.5


def test_no_number_is_no_fidelity() -> None:
    assert len(Fidelity(float("nan"), float("nan"), float("nan")).shortfalls()) == 3


def test_the_pictures_are_the_same_each_time_and_differ_among_themselves() -> None:
    first, again = fidelity.pictures(32, 48), fidelity.pictures(32, 48)
    assert len(first) > 4 * fidelity.NEAREST
    assert all(one.shape == (32, 48, 3) and one.dtype == np.uint8 for one in first)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert len({one.tobytes() for one in first}) == len(first)


def test_embeddings_of_another_length_keep_nothing() -> None:
    assert len(fidelity.measure(unit(rows()), unit(rows()[:, :-1])).shortfalls()) == 3
