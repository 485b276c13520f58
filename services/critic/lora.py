"""Many LoRA adapters in one batch: stacked matrices and a block mask.

LoRA (Hu et al. 2021, arXiv 2106.09685) adds scaling * B(A(x)) to a Linear. The A of all loaded adapters are stacked
into one matrix, and the B beside them; one product by all A, a mask that keeps for each row the block of its own
adapter (times its scaling), and one product by all B give every row its own adapter. The cost does not depend on how
many different adapters the rows use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as functional

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The Linears of a layer that are computed as one, by the name of the group."""

TARGETS: Final = frozenset(name.rsplit(".", 1)[1] for names in GROUPS.values() for name in names)
"""The Linears that an adapter may change, by their last name."""


@dataclass(frozen=True)
class AdapterWeights:
    """An adapter's matrices: for each (layer, Linear's name within the layer) A [rank, inputs] and B [outputs, rank];
    `scaling` multiplies their product."""

    rank: int
    scaling: float
    matrices: Mapping[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]

    @property
    def nbytes(self) -> int:
        """Return the size of the matrices in bytes."""
        return sum(t.numel() * t.element_size() for pair in self.matrices.values() for t in pair)


@dataclass
class _Stack:
    """One group of one layer: A [members, slots, rank, inputs]; for each member B [outputs, slots * rank] or None."""

    a: torch.Tensor
    b: list[torch.Tensor | None]


class StackedLora:
    """The loaded adapters of a model, each in a slot; `widths` are the outputs of each member of each group."""

    def __init__(self, widths: Mapping[str, Sequence[int]], device: torch.device, dtype: torch.dtype) -> None:
        self._widths = widths
        self._device = device
        self._dtype = dtype
        self._slots: list[AdapterWeights | None] = []
        self._rank = 0
        self._stacks: dict[tuple[int, str], _Stack] = {}

    @property
    def nbytes(self) -> int:
        """Return the size of the stacked matrices in bytes."""
        tensors = [t for s in self._stacks.values() for t in (s.a, *s.b) if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)

    def load(self, adapter: AdapterWeights) -> int:
        """Place an adapter in a free slot, and return the slot."""
        free = [slot for slot, taken in enumerate(self._slots) if taken is None]
        slots = [*self._slots] if free else [*self._slots, None]
        slot = free[0] if free else len(self._slots)
        slots[slot] = adapter
        self._rebuild(slots)
        return slot

    def unload(self, slot: int) -> None:
        """Free a slot that no row uses any more."""
        slots = [*self._slots]
        slots[slot] = None
        while slots and slots[-1] is None:
            slots.pop()
        self._rebuild(slots)

    def _rebuild(self, slots: list[AdapterWeights | None]) -> None:
        """Stack anew beside the old stacks and swap at the end: a failure leaves what was there."""
        rank = max((adapter.rank for adapter in slots if adapter), default=0)
        places = {place for adapter in slots if adapter for place in adapter.matrices}
        layers = {layer for layer, _ in places}
        stacks = {
            (layer, group): self._stack(slots, rank, layer, group)
            for layer in layers
            for group, names in GROUPS.items()
            if any((layer, name) in places for name in names)
        }
        self._slots, self._rank, self._stacks = slots, rank, stacks

    def _stack(self, slots: list[AdapterWeights | None], rank: int, layer: int, group: str) -> _Stack:
        names = GROUPS[group]
        pairs = [[adapter.matrices.get((layer, name)) if adapter else None for adapter in slots] for name in names]
        inputs = next(pair[0].shape[1] for row in pairs for pair in row if pair)
        a = torch.zeros(len(names), len(slots), rank, inputs, device=self._device, dtype=self._dtype)
        b: list[torch.Tensor | None] = []
        for member, row in enumerate(pairs):
            if not any(row):
                b.append(None)
                continue
            stacked = a.new_zeros(self._widths[group][member], len(slots), rank)
            for slot, pair in enumerate(row):
                if pair is not None:
                    own = pair[0].shape[0]
                    a[member, slot, :own] = pair[0]
                    stacked[:, slot, :own] = pair[1]
            b.append(stacked.flatten(1))
        return _Stack(a, b)

    def route(self, slots: Sequence[int | None], tokens: int) -> torch.Tensor | None:
        """Return the block mask [rows * tokens, 1, all ranks] for rows that use the adapters in `slots` (None: the
        base model), `tokens` each; None when no row uses any."""
        if all(slot is None for slot in slots):
            return None
        mask = torch.zeros(len(slots), len(self._slots), self._rank)
        for row, slot in enumerate(slots):
            if slot is not None:
                adapter = self._slots[slot]
                assert adapter is not None, "a row uses a slot that was freed"
                mask[row, slot] = adapter.scaling
        return mask.flatten(1).repeat_interleave(tokens, 0)[:, None].to(self._device, self._dtype)

    def add(self, out: torch.Tensor, x: torch.Tensor, layer: int, group: str, route: torch.Tensor | None) -> None:
        """Add the adapters' part to `out` in place.

        `x`: [rows, tokens, inputs]; `out`: [rows, tokens, outputs of the whole group], contiguous.
        """
        stack = self._stacks.get((layer, group))
        if route is None or stack is None:
            return
        members = len(stack.b)
        hidden = functional.linear(x.flatten(0, 1), stack.a.flatten(0, 2)).unflatten(-1, (members, -1))
        hidden *= route
        flat, start = out.view(-1, out.shape[-1]), 0
        for member, (b, width) in enumerate(zip(stack.b, self._widths[group], strict=True)):
            if b is not None:
                # One product straight into the output's own columns: no intermediate, no addition of its own.
                flat[:, start : start + width].addmm_(hidden[:, member], b.t())
            start += width
