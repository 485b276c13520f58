"""A short form of the mixed load: every critique through eight adapters is the one that it would be alone."""

from __future__ import annotations

import pytest
import torch

from tests.load import mixed_critiques
from tests.load.mixed_critiques import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    torch.set_num_threads(1)
    return Bench(tmp_path_factory.mktemp("mixed"))


async def test_mixed_critiques_are_those_written_alone_and_leave_nothing(bench: Bench) -> None:
    outcome = await mixed_critiques.run(bench, 60, seed=3)
    assert outcome.different == []
    assert outcome.finished + outcome.cancelled == 60
    assert min(outcome.finished, outcome.cancelled) > 0
    assert set(outcome.left.values()) == {0}, outcome.left


async def test_an_adapter_in_another_ones_place_is_noticed(bench: Bench) -> None:
    right = dict(bench.adapters)
    names = list(right)
    bench.adapters = dict(zip(names, [right[name] for name in (*names[1:], names[0])], strict=True))
    try:
        outcome = await mixed_critiques.run(bench, 20, seed=4)
    finally:
        bench.adapters = right
    assert outcome.different


async def test_200_critiques_cancelled_at_random_moments_leave_nothing(bench: Bench) -> None:
    left = await mixed_critiques.cancel_all(bench, 200, seed=5)
    assert set(left.values()) == {0}, left


def test_a_tie_is_told_from_a_difference(bench: Bench) -> None:
    request = mixed_critiques.drawn(1, 6, list(bench.adapters))[0]
    alone = bench.alone(request)
    place = len(alone) - 1
    assert bench.is_tie(request, place, alone[place])
    assert not bench.is_tie(request, place, (alone[place] + 1) % 256)
