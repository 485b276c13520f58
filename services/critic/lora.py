"""Many LoRA adapters in one batch, at a cost that does not depend on how many different ones the rows use.

LoRA (Hu et al. 2021, arXiv 2106.09685) adds scaling * B(A(x)) to a Linear. The matrices of all loaded adapters are
stacked, those of Linears that read the same input in one, so that two products serve a group of Linears. There are
two ways to give each row its own adapter, and the cheaper one is taken:

by rows    each row is multiplied by its own adapter's matrices, one small product a row (Chen et al. 2023, "Punica").
           It costs next to no arithmetic, but the matrices are read once a row. Prompts are read like this, and rows
           of adapters so small that the processor's cache holds a copy for each.
by blocks  all rows are multiplied by the matrices of all adapters, and a mask keeps for each row the block of its own.
           The matrices are read once, and shapes stay the same whatever the rows use, as CUDA graphs need it.
"""

from __future__ import annotations

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
    """One group of one layer: A [slots + 1, members * rank, inputs], and B times the scaling [slots + 1,
    members * rank, outputs of the whole group], zero outside each member's own columns. The last slot is all zero:
    the base model's."""

    a: torch.Tensor
    b: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Returns the size in bytes."""
        return sum(t.numel() * t.element_size() for t in (self.a, self.b))

    def of(self, slots: torch.Tensor) -> _Pair:
        """Returns the matrices of some slots, A transposed."""
        return self.a[slots].transpose(1, 2), self.b[slots]


@dataclass(frozen=True)
class Route:
    """Which adapter each row uses in one pass. By blocks: the mask [rows * tokens, slots + 1, 1]. By rows: what
    returns, for a (layer, group), A [rows, inputs, n * rank] and B [rows * m, n * rank / m, outputs / m]: of whole rows
    n members and m = 1, of pieces n = m of them."""

    blocks: torch.Tensor | None = None
    rows: Callable[[tuple[int, str]], _Pair] | None = None


def stacked_elements(adapter: AdapterWeights, shapes: Mapping[str, tuple[int, int]]) -> int:
    """Returns how many numbers an adapter's slot takes in stacks of its own rank; `shapes` are the (outputs, inputs) of
    each Linear within a layer."""
    places = {(layer, _GROUP[name]) for layer, name in adapter.matrices}
    per_group = {
        group: len(names) * (shapes[names[0]][1] + sum(shapes[name][0] for name in names))
        for group, names in GROUPS.items()
    }
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
        self._slot_bytes = sum(stack.nbytes for stack in stacks.values()) // (len(slots) + 1)
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

        def zeros(group: str, width: int) -> torch.Tensor:
            height = len(GROUPS[group]) * rank
            return torch.zeros(slots + 1, height, width, device=self.device, dtype=self._dtype)

        return {
            (layer, group): _Stack(zeros(group, width), zeros(group, sum(self._widths[group])))
            for (layer, group), width in inputs.items()
        }

    def _fill(self, stacks: Mapping[tuple[int, str], _Stack], slot: int, adapter: AdapterWeights) -> None:
        """Writes an adapter into a slot of all stacks, over whatever was in it."""
        for (layer, group), stack in stacks.items():
            stack.a[slot].zero_()
            stack.b[slot].zero_()
            height, column = stack.a.shape[1] // len(GROUPS[group]), 0
            for member, (name, width) in enumerate(zip(GROUPS[group], self._widths[group], strict=True)):
                pair = adapter.matrices.get((layer, name))
                if pair is not None:
                    place = slice(member * height, member * height + adapter.rank)
                    stack.a[slot, place] = pair[0]
                    stack.b[slot, place, column : column + width] = (pair[1].float() * adapter.scaling).t()
                column += width

    def route(self, slots: Sequence[int | None], tokens: int, *, by_blocks: bool = False) -> Route | None:
        """Returns how rows of `tokens` tokens each use the adapters in `slots` (None: the base model); None when no
        row uses any. It holds for the passes until the next call. `by_blocks` asks for that way."""
        if all(slot is None for slot in slots):
            return None
        assert all(slot is None or self._slots[slot] is not None for slot in slots), "a row uses a slot that was freed"
        base = len(self._slots)
        numbers = [base if slot is None else slot for slot in slots]
        if tokens > 1 and not by_blocks:
            chosen = torch.tensor(numbers, device=self.device)
            return Route(rows=lambda place: self._stacks[place].of(chosen))
        if not by_blocks and self._by_rows(len(slots)):
            self._copies.place(numbers, self._stacks)
            return Route(rows=self._copies.views.__getitem__)
        mask = torch.zeros(len(slots), base + 1, 1)
        mask[torch.arange(len(slots)), torch.tensor(numbers)] = 1
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
        if route.blocks is not None:
            hidden = functional.linear(x.flatten(0, 1), stack.a.flatten(0, 1)).unflatten(-1, (len(self._slots) + 1, -1))
            hidden *= route.blocks
            out.view(-1, out.shape[-1]).addmm_(hidden.flatten(1), stack.b.flatten(0, 1))
            return
        assert route.rows is not None
        a, b = route.rows((layer, group))
        tokens = x.shape[1]
        hidden = torch.bmm(x, a).view(-1, tokens, b.shape[1])
        out.view(-1, tokens, b.shape[2]).baddbmm_(hidden, b)


class _Copies:
    """For each row its own adapter's matrices, for one token: A transposed, and B without the zeros of the stacks.

    The outputs of a group are cut into pieces of one width, each within a member, so that one product serves them all:
    A [rows, inputs, pieces * rank] (a member's as often as it has pieces) and B [rows * pieces, rank, width]. Rows keep
    their adapters for many steps, so that hardly anything is copied.
    """

    def __init__(self, widths: Mapping[str, Sequence[int]]) -> None:
        self._pieces = {group: _pieces(outputs) for group, outputs in widths.items()}
        self._order = {group: torch.arange(len(members)) for group, (members, _) in self._pieces.items()}
        self._numbers: list[int] = []
        self._pairs: dict[tuple[int, str], _Pair] = {}
        # The matrices of the rows that were placed last, by (layer, group).
        self.views: dict[tuple[int, str], _Pair] = {}
        self._viewed = 0

    @property
    def nbytes(self) -> int:
        """Returns the size in bytes."""
        return sum(t.numel() * t.element_size() for pair in self._pairs.values() for t in pair)

    def place(self, numbers: Sequence[int], stacks: Mapping[tuple[int, str], _Stack]) -> None:
        """Gives row i the matrices of slot `numbers[i]`."""
        if len(numbers) > len(self._numbers):
            room = max(len(numbers), 2 * len(self._numbers))
            self._numbers, self._viewed = [-1] * room, 0
            self._pairs = {place: self._empty(place[1], stack, room) for place, stack in stacks.items()}
        for row, number in enumerate(numbers):
            if self._numbers[row] != number:
                for place, pair in self._pairs.items():
                    self._copy(pair, row, stacks[place], number, place[1])
                self._numbers[row] = number
        if self._viewed != len(numbers):
            self._viewed = len(numbers)
            self.views = {
                place: (a[: len(numbers)], b[: len(numbers)].flatten(0, 1)) for place, (a, b) in self._pairs.items()
            }

    def _empty(self, group: str, stack: _Stack, rows: int) -> _Pair:
        members, width = self._pieces[group]
        rank = stack.a.shape[1] // len(GROUPS[group])
        a = stack.a.new_empty(rows, stack.a.shape[2], len(members) * rank)
        return a, stack.b.new_empty(rows, len(members), rank, width)

    def _copy(self, pair: _Pair, row: int, stack: _Stack, number: int, group: str) -> None:
        """Writes slot `number` of a stack to a row of the copies."""
        members, width = self._pieces[group]
        split = (len(GROUPS[group]), -1)
        pair[0][row] = stack.a[number].unflatten(0, split)[members].flatten(0, 1).t()
        columns = stack.b[number].unflatten(0, split).unflatten(2, (-1, width))
        pair[1][row] = columns[members, :, self._order[group]]


def _pieces(widths: Sequence[int]) -> tuple[torch.Tensor, int]:
    """Returns the member of each piece, and the width of a piece: the greatest that divides all members."""
    width = math.gcd(*widths)
    return torch.arange(len(widths)).repeat_interleave(torch.tensor(widths) // width), width
