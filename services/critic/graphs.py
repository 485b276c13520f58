"""The decode step as CUDA graphs: recorded once a shape, then launched whole.

A step of a large model is about a thousand small kernels, and launching them one by one takes the processor longer
than a GPU takes to run them. A graph launches all of them at once. Its shapes and addresses are fixed, so rows and the
length that attention looks at are rounded up, and inputs are copied into the tensors that were recorded. What a row
that only fills up writes goes to the first place of a free slot, where the next prompt overwrites it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from services.critic.lora import Route, StackedLora

log = logging.getLogger("mondrian.critic")

Step = Callable[[torch.Tensor, int, Route | None], torch.Tensor]
"""Returns logits [rows, vocabulary] for numbers [3, rows] (tokens, lengths, positions), the places of the
slots that are looked at, and a route."""

Record = Callable[[Callable[[], torch.Tensor]], tuple[Callable[[], object], torch.Tensor]]
"""Runs a function of fixed shapes, and returns what runs it again and the tensor that then holds its result."""

_SPAN: Final = 256


def record_cuda_graph(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
    """Records `run` as a CUDA graph; see `Record`."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # libraries allocate at their first call, which a recording must not
        run()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()
    return graph.replay, result


@dataclass(frozen=True)
class _Recorded:
    """A step of one shape: its inputs, what runs it, its logits."""

    numbers: torch.Tensor
    blocks: torch.Tensor | None
    replay: Callable[[], object]
    logits: torch.Tensor


class StepGraphs:
    """Runs `step` by recorded graphs; belongs to the engine's thread."""

    def __init__(self, step: Step, lora: StackedLora, record: Record, *, slots: int, max_tokens: int) -> None:
        self._step = step
        self._lora = lora
        self._record = record
        self._slots = slots
        self._max_tokens = max_tokens
        self._recorded: dict[tuple[int, int, bool], _Recorded] = {}
        self._stacked = lora.version

    def run(self, numbers: Sequence[Sequence[int]], adapters: Sequence[int | None]) -> torch.Tensor:
        """Returns the logits [rows, vocabulary] of one step; they hold until the next call.

        `numbers`: tokens, lengths and positions, one for each row. Raises RuntimeError where a step of this shape
        cannot be recorded.
        """
        if self._stacked != self._lora.version:  # the adapters' matrices lie elsewhere now
            self._recorded = {key: one for key, one in self._recorded.items() if one.blocks is None}
            self._stacked = self._lora.version
        rows = len(adapters)
        width = min(self._slots, 1 << (rows - 1).bit_length())
        span = min(self._max_tokens, -(-(max(numbers[1]) + 1) // _SPAN) * _SPAN)
        route = self._lora.route([*adapters, *[None] * (width - rows)], 1, by_blocks=True)
        padded = torch.tensor([[*line, *[0] * (width - rows)] for line in numbers])
        key = (width, span, route is not None)
        if key not in self._recorded:
            self._recorded[key] = self._new(padded, span, route)
        recorded = self._recorded[key]
        recorded.numbers.copy_(padded)
        if recorded.blocks is not None and route is not None and route.blocks is not None:
            recorded.blocks.copy_(route.blocks)
        recorded.replay()
        return recorded.logits[:rows]

    def _new(self, numbers: torch.Tensor, span: int, route: Route | None) -> _Recorded:
        log.info("recording the step of %d rows of up to %d tokens", numbers.shape[1], span)
        inputs = numbers.to(self._lora.device)
        replay, logits = self._record(lambda: self._step(inputs, span, route))
        return _Recorded(inputs, None if route is None else route.blocks, replay, logits)
