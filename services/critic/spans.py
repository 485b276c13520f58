"""Which rows attend together: a step of attention costs what is read, and rows that attend as one all read as many
places as the longest of them.

Rows lie in slots side by side, so that neighbours can be read as one without a copy; `SIZE` of them are a block, and
rows of about the same length are kept within a block (`Writer` moves them so).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SIZE: Final = 4
"""Rows of a block."""

# Reading less than this takes less time than one more call of attention.
_WORTH_A_CALL: Final = 128 * 1024


@dataclass(frozen=True)
class Span:
    """Rows `start` to `stop` - 1 attend to the first `length` places of their slots."""

    start: int
    stop: int
    length: int


def spans(lengths: Sequence[int], place_bytes: int) -> list[Span]:
    """Returns spans of whole blocks that cover all rows, as few as are worth their calls.

    `lengths`: places that each row attends to; `place_bytes`: bytes that a layer keeps for one place of one row.
    """
    found: list[Span] = []
    for start in range(0, len(lengths), SIZE):
        stop = min(start + SIZE, len(lengths))
        span = Span(start, stop, max(lengths[start:stop]))
        while found and _spared(found[-1], span) * place_bytes < _WORTH_A_CALL:
            before = found.pop()
            span = Span(before.start, stop, max(before.length, span.length))
        found.append(span)
    return found


def _spared(first: Span, second: Span) -> int:
    """Returns how many places more are read where two spans are one."""
    length = max(first.length, second.length)
    return sum((length - span.length) * (span.stop - span.start) for span in (first, second))


def moves(lengths: Sequence[int], hole: int) -> list[tuple[int, int]]:
    """Returns the moves (from, to), in order, that close the gap a row leaves: the last slot is empty after them.

    `lengths` of all rows, the leaving one included. From each later block its longest row moves one block forward, so
    that blocks of long rows stay apart from blocks of short ones.
    """
    found = []
    for start in range((hole // SIZE + 1) * SIZE, len(lengths), SIZE):
        longest = max(range(start, min(start + SIZE, len(lengths))), key=lengths.__getitem__)
        found.append((longest, hole))
        hole = longest
    last = len(lengths) - 1
    return [*found, (last, hole)] if hole != last else found
