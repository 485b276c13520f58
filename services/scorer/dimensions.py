"""The eight dimensions, in the order in which they are always listed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from services.scorer.measures import (
    color_harmony,
    composition,
    depth_perspective,
    emotional_impact,
    focus_sharpness,
    lighting,
    subject_isolation,
    visual_balance,
)
from services.scorer.measures.scene import Measured, Scene


@dataclass(frozen=True)
class Dimension:
    """One of the eight: how it is measured, said, and how far it is trusted."""

    name: str
    """snake_case, as in the contract's enum without its prefix."""
    prior: float
    """0-1: how far signal measures can know this dimension at all; a factor of every confidence."""
    units: Mapping[str, str]
    """Unit of each sub-measure by name."""
    measure: Callable[[Scene], Measured]
    """Measures a batch."""
    evidence: Callable[[Mapping[str, float]], list[str]]
    """Says what was seen in one picture, from its sub-measures."""
    advice: Callable[[Mapping[str, float]], str]
    """Says what to try, from the same."""


class _Measure(Protocol):
    """What a module of measures offers."""

    UNITS: dict[str, str]

    def measure(self, scene: Scene) -> Measured: ...

    def evidence(self, values: Mapping[str, float]) -> list[str]: ...

    def advice(self, values: Mapping[str, float]) -> str: ...


def _dimension(name: str, module: _Measure, prior: float) -> Dimension:
    return Dimension(name, prior, module.UNITS, module.measure, module.evidence, module.advice)


DIMENSIONS: tuple[Dimension, ...] = (
    _dimension("composition", composition, 0.45),
    _dimension("lighting", lighting, 0.8),
    _dimension("focus_sharpness", focus_sharpness, 0.9),
    _dimension("color_harmony", color_harmony, 0.5),
    _dimension("subject_isolation", subject_isolation, 0.7),
    _dimension("depth_perspective", depth_perspective, 0.35),
    _dimension("visual_balance", visual_balance, 0.5),
    _dimension("emotional_impact", emotional_impact, 0.3),
)

NAMES: tuple[str, ...] = tuple(dimension.name for dimension in DIMENSIONS)
