"""The matrix products of a workload alone: what no way of writing it can be faster than, with the same weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as functional

from services.critic.language import LanguageWeights, Linear


def products_seconds(language: LanguageWeights, prompts: Sequence[int], steps: int, rows: int) -> float:
    """Returns the CPU seconds of the language model's products in reading prompts of so many tokens each, and in
    `steps` steps of `rows` rows: no attention, no norms, no vision, no choice of tokens."""

    def read(tokens: int) -> None:
        *before, last = language.layers
        for layer in before:
            _multiply(layer.linears.values(), tokens)
        # Of the last layer, keys and values alone are wanted of all tokens.
        _multiply([last.linears["qkv"]], tokens)
        _multiply([linear for group, linear in last.linears.items() if group != "qkv"], 1)
        head(1)

    def write() -> None:
        for layer in language.layers:
            _multiply(layer.linears.values(), rows)
        head(rows)

    def head(rows: int) -> None:
        functional.linear(torch.zeros(rows, language.head.shape[1], dtype=language.head.dtype), language.head)

    lengths = sorted(set(prompts))
    with torch.inference_mode():
        reading = {length: _seconds(lambda length=length: read(length), 3) for length in lengths}  # type: ignore[misc]
        return sum(reading[length] for length in prompts) + steps * _seconds(write, 10)


def _multiply(linears: Iterable[Linear], rows: int) -> None:
    for linear in linears:
        linear(torch.zeros(rows, linear.weight.shape[1], dtype=linear.weight.dtype))


def _seconds(action: Callable[[], None], times: int) -> float:
    action()
    begun = time.process_time()
    for _ in range(times):
        action()
    return (time.process_time() - begun) / times
