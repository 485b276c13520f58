"""Many LoRA adapters in one batch, at a cost that does not depend on how many different ones the rows use.

LoRA (Hu et al. 2021, arXiv 2106.09685) adds scaling * B(A(x)) to a Linear. The matrices of all loaded adapters are
stacked, the A of Linears that read the same input in one, so that one product serves a group of Linears. There are two
ways to give each row its own adapter, and the cheaper one is taken:

by rows    each row is multiplied by its own adapter's matrices, one small product a row (Chen et al. 2023, "Punica").
           It costs next to no arithmetic, but the matrices are read once a row. Prompts are read like this, and on a
           CPU tokens are written so.
by blocks  all rows are multiplied by the matrices of all adapters, and a mask keeps for each row the block of its own.
           The matrices are read once, and shapes stay the same whatever the rows use, as CUDA graphs need it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as functional

from services.critic import kernels

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The Linears of a layer that are computed as one, by the name of the group."""

TARGETS: Final = frozenset(name.rsplit(".", 1)[1] for names in GROUPS.values() for name in names)
"""The Linears that an adapter may change, by their last name."""

_GROUP: Final = {name: group for group, names in GROUPS.items() for name in names}


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


_Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class _Stack:
    """One group of one layer: A [slots, members, rank, inputs], and B times the scaling [slots, rank, outputs], those
    of the members side by side between `bounds`."""

    a: torch.Tensor
    b: torch.Tensor
    bounds: np.ndarray[Any, Any]

    @functools.cached_property
    def arrays(self) -> tuple[Any, ...]:
        """Returns all three as the kernel takes them."""
        return kernels.array(self.a), kernels.array(self.b), self.bounds

    @property
    def nbytes(self) -> int:
        """Returns the size in bytes."""
        return sum(t.numel() * t.element_size() for t in (self.a, self.b))

    def columns(self) -> list[slice]:
        """Returns where the outputs of each member stand among those of the group."""
        return list(itertools.starmap(slice, itertools.pairwise(self.bounds)))


@dataclass(frozen=True)
class Route:
    """Which adapter each row uses in one pass, by one of these.

    `blocks`: the mask [rows * tokens, slots, 1, 1]. `chosen`: for each row its slot, and 1 or, for the base model, 0.
    `slots`: for each row its slot or, for the base model, -1, as the kernel for one token a row takes them.
    """

    blocks: torch.Tensor | None = None
    chosen: tuple[torch.Tensor, torch.Tensor] | None = None
    slots: np.ndarray[Any, Any] | None = None


def stacked_elements(adapter: AdapterWeights, shapes: Mapping[str, tuple[int, int]]) -> int:
    """Returns how many numbers an adapter's slot takes in stacks of its own rank; `shapes` are the (outputs, inputs) of
    each Linear within a layer."""
    places = {(layer, _GROUP[name]) for layer, name in adapter.matrices}
    per_group = {group: sum(sum(shapes[name]) for name in names) for group, names in GROUPS.items()}
    return adapter.rank * sum(per_group[group] for _, group in places)


class StackedLora:
    """The loaded adapters of a model, each in a slot; `widths` are the outputs of each member of each group.

    A slot that is freed takes the next adapter that fits, and then nothing else moves; else all are stacked anew.
    """

    def __init__(self, widths: Mapping[str, Sequence[int]], device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        # Grows whenever the stacks are allocated anew.
        self.version = 0
        self._widths = widths
        self._dtype = dtype
        self._slots: list[AdapterWeights | None] = []
        self._rank = 0
        self._stacks: dict[tuple[int, str], _Stack] = {}
        self._kernel = kernels.lora(dtype) if kernels.serve(device, dtype) else None

    @property
    def nbytes(self) -> int:
        """Returns the size of the stacked matrices in bytes."""
        return sum(stack.nbytes for stack in self._stacks.values())

    def load(self, adapter: AdapterWeights) -> int:
        """Places an adapter in a free slot, and returns the slot."""
        if self._fits(adapter):
            slot = self._slots.index(None)
            self._fill(self._stacks, slot, adapter)
            self._slots[slot] = adapter
            return slot
        # Stacked anew beside the old stacks and swapped at the end: a failure leaves what was there.
        slots = [*self._slots] if None in self._slots else [*self._slots, None]
        slot = slots.index(None)
        slots[slot] = adapter
        loaded = [one for one in slots if one is not None]
        rank = max(one.rank for one in loaded)
        stacks = self._allocate(len(slots), rank, loaded)
        for number, one in enumerate(slots):
            if one is not None:
                self._fill(stacks, number, one)
        self._slots, self._rank, self._stacks = slots, rank, stacks
        self.version += 1
        return slot

    def unload(self, slot: int) -> None:
        """Frees a slot that no row uses any more."""
        self._slots[slot] = None
        if not any(self._slots):
            self._slots, self._rank, self._stacks = [], 0, {}
            self.version += 1

    def _fits(self, adapter: AdapterWeights) -> bool:
        """Returns whether there is a free slot of at least its rank for every Linear that it changes."""
        if None not in self._slots or adapter.rank > self._rank:
            return False
        return {(layer, _GROUP[name]) for layer, name in adapter.matrices} <= self._stacks.keys()

    def _allocate(self, slots: int, rank: int, adapters: Sequence[AdapterWeights]) -> dict[tuple[int, str], _Stack]:
        inputs = {
            (layer, _GROUP[name]): pair[0].shape[1]
            for adapter in adapters
            for (layer, name), pair in adapter.matrices.items()
        }

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, device=self.device, dtype=self._dtype)

        return {
            (layer, group): _Stack(
                zeros(slots, len(GROUPS[group]), rank, width),
                zeros(slots, rank, sum(self._widths[group])),
                np.cumsum([0, *self._widths[group]]),
            )
            for (layer, group), width in inputs.items()
        }

    def _fill(self, stacks: Mapping[tuple[int, str], _Stack], slot: int, adapter: AdapterWeights) -> None:
        """Writes an adapter into a slot of all stacks, over whatever was in it."""
        for (layer, group), stack in stacks.items():
            stack.a[slot] = 0
            stack.b[slot] = 0
            for name, a, columns in zip(GROUPS[group], stack.a[slot], stack.columns(), strict=True):
                pair = adapter.matrices.get((layer, name))
                if pair is not None:
                    a[: adapter.rank] = pair[0]
                    stack.b[slot, : adapter.rank, columns] = (pair[1].float() * adapter.scaling).t()

    def route(self, slots: Sequence[int | None], tokens: int, *, by_blocks: bool = False) -> Route | None:
        """Returns how rows of `tokens` tokens each use the adapters in `slots` (None: the base model); None when no
        row uses any. It holds for the passes until the next call. `by_blocks` asks for that way."""
        if all(slot is None for slot in slots):
            return None
        assert all(slot is None or self._slots[slot] is not None for slot in slots), "a row uses a slot that was freed"
        if tokens > 1 and not by_blocks:
            numbers = torch.tensor([[slot or 0, slot is not None] for slot in slots], device=self.device)
            return Route(chosen=(numbers[:, 0], numbers[:, 1, None, None].to(self._dtype)))
        if self._kernel is not None and not by_blocks:
            return Route(slots=np.array([-1 if slot is None else slot for slot in slots]))
        mask = torch.zeros(len(slots), len(self._slots), 1, 1)
        used = [(row, slot) for row, slot in enumerate(slots) if slot is not None]
        mask[[row for row, _ in used], [slot for _, slot in used]] = 1
        mask = mask.repeat_interleave(tokens, 0)
        return Route(blocks=mask.to(self.device, self._dtype))

    def add(self, out: torch.Tensor, x: torch.Tensor, layer: int, group: str, route: Route | None) -> None:
        """Adds the adapters' part to `out` in place.

        `x`: [rows, tokens, inputs]; `out`: [rows, tokens, outputs of the whole group], contiguous.
        """
        stack = self._stacks.get((layer, group))
        if route is None or stack is None:
            return
        flat = out.view(-1, out.shape[-1])
        if route.slots is not None and self._kernel is not None:
            self._kernel(kernels.array(flat), kernels.array(x[:, 0]), *stack.arrays, route.slots)
        elif route.blocks is not None:
            hidden = functional.linear(x.flatten(0, 1), stack.a.flatten(0, 2)).view(-1, *stack.a.shape[:3])
            hidden *= route.blocks
            for member, columns in enumerate(stack.columns()):
                flat[:, columns].addmm_(hidden[:, :, member].flatten(1), stack.b[..., columns].flatten(0, 1))
        elif route.chosen is not None:
            slots, used = route.chosen
            hidden = torch.bmm(x, stack.a[slots].flatten(1, 2).transpose(1, 2)) * used
            b = stack.b[slots]
            for part, columns in zip(hidden.chunk(stack.a.shape[1], -1), stack.columns(), strict=True):
                out[..., columns].baddbmm_(part, b[..., columns])
