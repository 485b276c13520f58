"""Choosing tokens: the greatest, or draws that follow the distribution they are drawn from."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.critic.sampling import Sampler, SamplingParams, choose

CPU = torch.device("cpu")
PROBABILITIES = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03])


def sampler(prompt: tuple[int, ...] = (), **params: float | int | None) -> Sampler:
    return Sampler(SamplingParams(1, **params), prompt, CPU)  # type: ignore[arg-type]


def drawn(count: int, **params: Any) -> Counter[int]:
    row = sampler(seed=1, **params)
    return Counter(choose(PROBABILITIES.log()[None].clone(), [row])[0] for _ in range(count))


def test_temperature_0_takes_the_most_likely_token() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 1.9]])
    assert choose(logits, [sampler(), sampler()]) == [1, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    count = 4_000
    seen = drawn(count, temperature=temperature)
    wanted = PROBABILITIES.pow(1 / temperature) / PROBABILITIES.pow(1 / temperature).sum()
    chi_square = sum((seen[i] - count * p) ** 2 / (count * p) for i, p in enumerate(wanted.tolist()))
    assert chi_square < 18.47  # 4 degrees of freedom: exceeded once in a thousand by a fair draw


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.4, {0}), (0.5, {0}), (0.51, {0, 1}), (0.9, {0, 1, 2}), (1.0, set(range(5)))]
)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, kept: set[int]) -> None:
    assert set(drawn(1_000, temperature=1.0, top_p=top_p)) == kept


def test_a_seed_repeats_its_draws_and_none_does_not() -> None:
    logits = torch.zeros(1, 1_000)

    def walk(seed: int | None) -> list[int]:
        row = sampler(temperature=1.0, seed=seed)
        return [choose(logits.clone(), [row])[0] for _ in range(20)]

    assert walk(4) == walk(4)
    assert walk(4) != walk(5)
    assert walk(None) != walk(None)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=2, max_size=30),
    st.floats(1e-6, 2),
    st.floats(1e-6, 1),
    st.integers(0, 2**64 - 1),
)
def test_any_logits_give_a_token_of_the_vocabulary(
    logits: list[float], temperature: float, top_p: float, seed: int
) -> None:
    row = sampler(temperature=temperature, top_p=top_p, seed=seed)
    token = choose(torch.tensor([logits]), [row])[0]
    assert 0 <= token < len(logits)
    if temperature < 1e-3:
        assert math.isclose(logits[token], max(logits), abs_tol=0.05)


def test_the_penalty_speaks_of_prompt_and_critique() -> None:
    row = sampler(prompt=(0,), repetition_penalty=2.0)
    logits = torch.tensor([[4.0, 3.0, -1.0]])
    assert choose(logits.clone(), [row]) == [1]
    row.settle(1)
    penalised = logits[0].clone()
    row.penalise(penalised)
    assert penalised.tolist() == [2.0, 1.5, -1.0]
    row.settle(2)
    penalised = logits[0].clone()
    row.penalise(penalised)
    assert penalised.tolist() == [2.0, 1.5, -2.0]


def test_rows_are_chosen_each_by_its_own_parameters() -> None:
    logits = torch.log(PROBABILITIES).repeat(3, 1)
    alone = choose(logits[1:2].clone(), [sampler(temperature=1.0, seed=9)])
    rows = [sampler(), sampler(temperature=1.0, seed=9), sampler(prompt=(0,), repetition_penalty=2.0)]
    greedy, random_one, penalised = choose(logits.clone(), rows)
    assert (greedy, random_one, penalised) == (0, alone[0], 1 if math.log(0.5) * 2 < math.log(0.25) else 0)
