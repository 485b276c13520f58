"""The eight dimensions by their names: those of the contract, in its order, without its prefix."""

from __future__ import annotations

from typing import Final

from mondrian.types.v1 import types_pb2

_NUMBERS: Final[dict[str, types_pb2.Dimension.ValueType]] = {
    name.removeprefix("DIMENSION_").lower(): number for name, number in types_pb2.Dimension.items() if number
}
_NAMES: Final = {number: name for name, number in _NUMBERS.items()}
DIMENSIONS: Final = tuple(_NUMBERS)
"""The names of the eight dimensions, like visual_balance."""


def number_of(name: str) -> types_pb2.Dimension.ValueType:
    """Returns the contract's number of a dimension."""
    return _NUMBERS[name]


def in_words(number: types_pb2.Dimension.ValueType) -> str:
    """Returns a dimension's name as it stands in a sentence; one of a later version is called by its number."""
    return _NAMES.get(number, f"dimension {number}").replace("_", " ")
