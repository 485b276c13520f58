"""Many LoRA adapters in one batch, at a cost that does not depend on how many different ones the rows use.

LoRA (Hu et al. 2021, arXiv 2106.09685) adds scaling * B(A(x)) to a Linear. The matrices of all loaded adapters are
stacked, the A of Linears that read the same input in one, so that one product serves a group of Linears. There are two
ways to give each row its own adapter, and the cheaper one is taken:

by rows    each row is multiplied by its own adapter's matrices, one small product a row (Chen et al. 2023, "Punica").
           It costs next to no arithmetic, but the matrices are read once a row. Prompts are read like this, and rows
           of adapters so small that the processor's cache holds a copy for each.
by blocks  all rows are multiplied by the matrices of all adapters, and a mask keeps for each row the block of its own.
           The matrices are read once, and shapes stay the same whatever the rows use, as CUDA graphs need it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
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

_GROUP: Final = {name: group for group, names in GROUPS.items() for name in names}
# What the rows' own copies may take: more would not stay in the cache of a core.
_CACHE_BYTES: Final = 8 * 1024 * 1024


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
    """One group of one layer: A [members, slots, rank, inputs], and for each member B times the scaling
    [slots, rank, outputs]."""

    a: torch.Tensor
    b: tuple[torch.Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Returns the size in bytes."""
        return sum(t.numel() * t.element_size() for t in (self.a, *self.b))

    def columns(self) -> list[slice]:
        """Returns where the outputs of each member stand among those of the group."""
        ends = list(itertools.accumulate(b.shape[2] for b in self.b))
        return [slice(end - b.shape[2], end) for end, b in zip(ends, self.b, strict=True)]


@dataclass(frozen=True)
class Route:
    """Which adapter each row uses in one pass, by one of these.

    `blocks`: the mask [rows * tokens, 1, slots, 1]. `chosen`: for each row its slot, and 1 or, for the base model, 0.
    `copies`: for a (layer, group) the rows' own A [rows, inputs, pieces * rank] and B [rows * pieces, rank, outputs of
    a piece].
    """

    blocks: torch.Tensor | None = None
    chosen: _Pair | None = None
    copies: Callable[[tuple[int, str]], _Pair] | None = None


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
        self._slot_bytes = 0
        self._copies = _Copies(self._widths)

    @property
    def nbytes(self) -> int:
        """Returns the size of the stacked matrices, and of the rows' own copies of them, in bytes."""
        return sum(stack.nbytes for stack in self._stacks.values()) + self._copies.nbytes

    def load(self, adapter: AdapterWeights) -> int:
        """Places an adapter in a free slot, and returns the slot."""
        self._copies = _Copies(self._widths)
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
        self._slot_bytes = sum(stack.nbytes for stack in stacks.values()) // len(slots)
        self.version += 1
        return slot

    def unload(self, slot: int) -> None:
        """Frees a slot that no row uses any more."""
        self._copies = _Copies(self._widths)
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
                zeros(len(GROUPS[group]), slots, rank, width),
                tuple(zeros(slots, rank, outputs) for outputs in self._widths[group]),
            )
            for (layer, group), width in inputs.items()
        }

    def _fill(self, stacks: Mapping[tuple[int, str], _Stack], slot: int, adapter: AdapterWeights) -> None:
        """Writes an adapter into a slot of all stacks, over whatever was in it."""
        for (layer, group), stack in stacks.items():
            for name, a, b in zip(GROUPS[group], stack.a, stack.b, strict=True):
                a[slot].zero_()
                b[slot].zero_()
                pair = adapter.matrices.get((layer, name))
                if pair is not None:
                    a[slot, : adapter.rank] = pair[0]
                    b[slot, : adapter.rank] = (pair[1].float() * adapter.scaling).t()

    def route(self, slots: Sequence[int | None], tokens: int, *, by_blocks: bool = False) -> Route | None:
        """Returns how rows of `tokens` tokens each use the adapters in `slots` (None: the base model); None when no
        row uses any. It holds for the passes until the next call. `by_blocks` asks for that way."""
        if all(slot is None for slot in slots):
            return None
        assert all(slot is None or self._slots[slot] is not None for slot in slots), "a row uses a slot that was freed"
        if tokens > 1 and not by_blocks:
            numbers = torch.tensor([[slot or 0, slot is not None] for slot in slots], device=self.device)
            return Route(chosen=(numbers[:, 0], numbers[:, 1, None, None].to(self._dtype)))
        if not by_blocks and self._by_rows(len(slots)):
            self._copies.place(slots, self._stacks)
            return Route(copies=self._copies.views.__getitem__)
        mask = torch.zeros(len(slots), 1, len(self._slots), 1)
        used = [(row, slot) for row, slot in enumerate(slots) if slot is not None]
        mask[[row for row, _ in used], 0, [slot for _, slot in used]] = 1
        mask = mask.repeat_interleave(tokens, 0)
        return Route(blocks=mask.to(self.device, self._dtype))

    def _by_rows(self, rows: int) -> bool:
        """Returns whether to keep a copy of its adapter for each row: on a CPU, where all of them fit its cache."""
        return self.device.type == "cpu" and rows * self._slot_bytes <= _CACHE_BYTES

    def add(self, out: torch.Tensor, x: torch.Tensor, layer: int, group: str, route: Route | None) -> None:
        """Adds the adapters' part to `out` in place.

        `x`: [rows, tokens, inputs]; `out`: [rows, tokens, outputs of the whole group], contiguous.
        """
        stack = self._stacks.get((layer, group))
        if route is None or stack is None:
            return
        if route.copies is not None:
            a, b = route.copies((layer, group))
            hidden = torch.bmm(x, a).view(-1, 1, b.shape[1])
            out.view(-1, 1, b.shape[2]).baddbmm_(hidden, b)
        elif route.blocks is not None:
            hidden = functional.linear(x.flatten(0, 1), stack.a.flatten(0, 2)).view(-1, *stack.a.shape[:3])
            hidden *= route.blocks
            flat = out.view(-1, out.shape[-1])
            for member, (columns, b) in enumerate(zip(stack.columns(), stack.b, strict=True)):
                flat[:, columns].addmm_(hidden[:, member].flatten(1), b.flatten(0, 1))
        elif route.chosen is not None:
            slots, used = route.chosen
            hidden = torch.bmm(x, stack.a[:, slots].transpose(0, 1).flatten(1, 2).transpose(1, 2)) * used
            parts = hidden.chunk(len(stack.b), -1)
            for part, columns, b in zip(parts, stack.columns(), stack.b, strict=True):
                out[..., columns].baddbmm_(part, b[slots])


class _Copies:
    """For each row its own adapter's matrices, for one token: A transposed, and B without the zeros of the stacks.

    The outputs of a group are cut into pieces of one width, each within a member, so that one product serves them all:
    A [rows, inputs, pieces * rank] (a member's as often as it has pieces) and B [rows * pieces, rank, width]. Rows keep
    their adapters for many steps, so that hardly anything is copied.
    """

    def __init__(self, widths: Mapping[str, Sequence[int]]) -> None:
        self._pieces = {group: _pieces(outputs) for group, outputs in widths.items()}
        # The slot whose matrices each row of the copies holds; None: zeros, the base model's.
        self._numbers: list[int | None] = []
        self._pairs: dict[tuple[int, str], _Pair] = {}
        # The matrices of the rows that were placed last, by (layer, group).
        self.views: dict[tuple[int, str], _Pair] = {}
        self._viewed = 0

    @property
    def nbytes(self) -> int:
        """Returns the size in bytes."""
        return sum(t.numel() * t.element_size() for pair in self._pairs.values() for t in pair)

    def place(self, slots: Sequence[int | None], stacks: Mapping[tuple[int, str], _Stack]) -> None:
        """Gives row i the matrices of `slots[i]`."""
        if len(slots) > len(self._numbers):
            room = max(len(slots), 2 * len(self._numbers))
            self._numbers, self._viewed = [None] * room, 0
            self._pairs = {place: self._empty(place[1], stack, room) for place, stack in stacks.items()}
        for row, slot in enumerate(slots):
            if self._numbers[row] != slot:
                self._write(row, slot, stacks)
                self._numbers[row] = slot
        if self._viewed != len(slots):
            self._viewed = len(slots)
            self.views = {
                place: (a[: len(slots)], b[: len(slots)].flatten(0, 1)) for place, (a, b) in self._pairs.items()
            }

    def _empty(self, group: str, stack: _Stack, rows: int) -> _Pair:
        members, width = self._pieces[group]
        rank = stack.a.shape[2]
        a = stack.a.new_zeros(rows, stack.a.shape[3], len(members) * rank)
        return a, stack.a.new_zeros(rows, len(members), rank, width)

    def _write(self, row: int, slot: int | None, stacks: Mapping[tuple[int, str], _Stack]) -> None:
        """Writes a slot's matrices to a row of the copies: from another row that holds them, if there is one."""
        if slot in self._numbers:
            source = self._numbers.index(slot)
            for tensor in itertools.chain.from_iterable(self._pairs.values()):
                tensor[row] = tensor[source]
            return
        if slot is None:
            for tensor in itertools.chain.from_iterable(self._pairs.values()):
                tensor[row] = 0
            return
        for place, (a, b) in self._pairs.items():
            members, width = self._pieces[place[1]]
            a[row] = stacks[place].a[members, slot].flatten(0, 1).t()
            b[row] = torch.cat([one[slot].unflatten(1, (-1, width)).transpose(0, 1) for one in stacks[place].b])


def _pieces(widths: Sequence[int]) -> tuple[torch.Tensor, int]:
    """Returns the member of each piece, and the width of a piece: the greatest that divides all members."""
    width = math.gcd(*widths)
    return torch.arange(len(widths)).repeat_interleave(torch.tensor(widths) // width), width
