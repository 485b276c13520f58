"""Choosing the next token of each row: greedy, or drawn by temperature and top-p, with a repetition penalty.

The order is that of `transformers.generate`: penalty, what a grammar forbids, temperature, top-p. A row draws one
uniform number a token from its own generator, so that what it writes does not depend on the rows beside it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from services.critic.structured import JsonGuide, constrain


@dataclass(frozen=True)
class SamplingParams:
    """How one critique is written.

    `max_tokens` >= 1; `temperature` >= 0, 0 takes the most likely token; `top_p` in (0, 1] keeps the most likely
    tokens whose probabilities add up to it; `repetition_penalty` >= 1 divides the positive (multiplies the negative)
    logits of tokens that prompt or critique hold already (Keskar et al. 2019, arXiv 1909.05858); `seed` makes the
    draws repeatable, None draws one; `json` asks for the JSON of `structured.GRAMMAR`, whose punctuation the penalty
    leaves alone.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    json: bool = False


class Sampler:
    """The state of one row: its generator, the tokens that the penalty speaks of, and the guide through a grammar."""

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int], device: torch.device, guide: JsonGuide | None = None
    ) -> None:
        self.params = params
        self.guide = guide
        self._random = random.Random(params.seed)
        self._device = device
        # Else a string could hardly end where one has ended before.
        self._spared = guide.grammar.punctuation if guide else frozenset()
        penalised = prompt if params.repetition_penalty != 1.0 else ()
        self._seen = dict.fromkeys(token for token in penalised if token not in self._spared)

    def penalise(self, logits: torch.Tensor) -> None:
        """Applies the repetition penalty to one row of logits, in place."""
        if self._seen:
            ids = torch.tensor(list(self._seen), device=self._device)
            scores = logits[ids]
            penalty = self.params.repetition_penalty
            logits[ids] = torch.where(scores < 0, scores * penalty, scores / penalty)

    def draw(self) -> float:
        """Returns the next uniform number in [0, 1)."""
        return self._random.random()

    def settle(self, token: int) -> int:
        """Returns the token that is written where `token` was chosen: another only where a grammar refuses it."""
        if self.guide is not None:
            token = self.guide.settle(token)
        if self.params.repetition_penalty != 1.0 and token not in self._spared:
            self._seen[token] = None
        return token


def choose(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Returns the next token of each row.

    `logits`: [rows, vocabulary] of any float dtype; changed in place where a row asks for a penalty or JSON.
    """
    logits = logits.float()
    for row, sampler in enumerate(samplers):
        sampler.penalise(logits[row])
    guides = {row: sampler.guide for row, sampler in enumerate(samplers) if sampler.guide}
    if guides:
        constrain(logits, guides)
    chosen = logits.argmax(-1)
    drawn = [row for row, sampler in enumerate(samplers) if sampler.params.temperature > 0]
    if drawn:
        rows = torch.tensor(drawn, device=logits.device)
        chosen[rows] = _draw(logits[rows], [samplers[row] for row in drawn])
    return chosen.tolist()


def _draw(logits: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Returns one token a row by the inverse of the cumulative distribution over the tokens that top-p keeps."""

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, device=logits.device, dtype=torch.float32)[:, None]

    temperatures = column([sampler.params.temperature for sampler in samplers])
    # The greatest logit is taken off first, so that a tiny temperature does not overflow.
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperatures
    probabilities, tokens = scaled.softmax(-1).sort(dim=-1, descending=True, stable=True)
    cumulative = probabilities.cumsum(-1)
    # A token stays while the tokens before it have not reached top_p; the first always stays.
    kept = cumulative - probabilities < column([sampler.params.top_p for sampler in samplers])
    kept[:, 0] = True
    mass = (probabilities * kept).cumsum(-1)
    targets = column([sampler.draw() for sampler in samplers]) * mass[:, -1:]
    # The first token whose cumulative mass exceeds the target; never one beyond those that were kept.
    place = torch.searchsorted(mass, targets, right=True).clamp(max=kept.sum(-1, keepdim=True) - 1)
    return tokens.gather(-1, place)[:, 0]
