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
        """Returns the size of the matrices in bytes."""
        return sum(t.numel() * t.element_size() for pair in self.matrices.values() for t in pair)


@dataclass(frozen=True)
class _Stack:
    """One group of one layer: A [members, slots, rank, inputs]; for each member B [outputs, slots, rank], or None
    where no adapter changes it."""

    a: torch.Tensor
    b: tuple[torch.Tensor | None, ...]


class StackedLora:
    """The loaded adapters of a model, each in a slot; `widths` are the outputs of each member of each group.

    There is room for more slots than adapters, so that most adapters are copied into place and nothing else moves.
    """

    def __init__(self, widths: Mapping[str, Sequence[int]], device: torch.device, dtype: torch.dtype) -> None:
        self._widths = widths
        self._device = device
        self._dtype = dtype
        self._slots: list[AdapterWeights | None] = []
        self._rank = 0
        self._stacks: dict[tuple[int, str], _Stack] = {}

    @property
    def nbytes(self) -> int:
        """Returns the size of the stacked matrices in bytes."""
        tensors = [t for s in self._stacks.values() for t in (s.a, *s.b) if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)

    def load(self, adapter: AdapterWeights) -> int:
        """Places an adapter in a free slot, and returns the slot."""
        if self._fits(adapter):
            slot = self._slots.index(None)
            _fill(self._stacks, slot, adapter)
            self._slots[slot] = adapter
            return slot
        # Stacked anew beside the old stacks and swapped at the end: a failure leaves what was there.
        free = None in self._slots
        slots = [*self._slots] if free else [*self._slots, *[None] * max(1, len(self._slots))]
        slot = slots.index(None)
        slots[slot] = adapter
        loaded = [one for one in slots if one is not None]
        rank = max(one.rank for one in loaded)
        stacks = self._allocate(len(slots), rank, loaded)
        for number, one in enumerate(slots):
            if one is not None:
                _fill(stacks, number, one)
        self._slots, self._rank, self._stacks = slots, rank, stacks
        return slot

    def unload(self, slot: int) -> None:
        """Frees a slot that no row uses any more."""
        self._slots[slot] = None
        if not any(self._slots):
            self._slots, self._rank, self._stacks = [], 0, {}

    def _fits(self, adapter: AdapterWeights) -> bool:
        """Returns whether there is a free slot of at least its rank for every Linear that it changes."""
        if None not in self._slots or adapter.rank > self._rank:
            return False
        kept = {
            (layer, name)
            for (layer, group), stack in self._stacks.items()
            for name, b in zip(GROUPS[group], stack.b, strict=True)
            if b is not None
        }
        return adapter.matrices.keys() <= kept

    def _allocate(self, slots: int, rank: int, adapters: Sequence[AdapterWeights]) -> dict[tuple[int, str], _Stack]:
        inputs = {place: pair[0].shape[1] for adapter in adapters for place, pair in adapter.matrices.items()}
        stacks: dict[tuple[int, str], _Stack] = {}
        for layer in {layer for layer, _ in inputs}:
            for group, names in GROUPS.items():
                reads = [inputs.get((layer, name)) for name in names]
                width = next((one for one in reads if one is not None), None)
                if width is not None:
                    a = torch.zeros(len(names), slots, rank, width, device=self._device, dtype=self._dtype)
                    outputs = zip(self._widths[group], reads, strict=True)
                    b = tuple(None if one is None else a.new_zeros(out, slots, rank) for out, one in outputs)
                    stacks[layer, group] = _Stack(a, b)
        return stacks

    def route(self, slots: Sequence[int | None], tokens: int) -> torch.Tensor | None:
        """Returns the block mask [rows * tokens, 1, all ranks] for rows that use the adapters in `slots` (None: the
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
        """Adds the adapters' part to `out` in place.

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
                flat[:, start : start + width].addmm_(hidden[:, member], b.flatten(1).t())
            start += width


def _fill(stacks: Mapping[tuple[int, str], _Stack], slot: int, adapter: AdapterWeights) -> None:
    """Writes an adapter into a slot of all stacks, over whatever was in it."""
    for (layer, group), stack in stacks.items():
        for member, (name, b) in enumerate(zip(GROUPS[group], stack.b, strict=True)):
            stack.a[member, slot].zero_()
            if b is None:
                continue
            b[:, slot].zero_()
            pair = adapter.matrices.get((layer, name))
            if pair is not None:
                rank = pair[0].shape[0]
                stack.a[member, slot, :rank] = pair[0]
                b[:, slot, :rank] = pair[1]
