"""From raw measures to scores: monotone maps, fitted on everyday photographs and stored as data.

A raw value becomes the percentile that it has among the photographs of the fit, the percentile a z value of the normal
distribution, and z a score of 5 + 2.1 z: 5 is the median photograph, one standard deviation is 2.1 points. So nine
tenths of the photographs use 6.9 of the 10 points, and of 200 others, which vary by chance, 6 or more. Below and above
the outermost knots z goes on in a straight line, and the last 0.8 points at both ends are approached, never reached:
a worse photograph always scores lower. Colour and monochrome photographs have tables of their own, blended
by how far the photograph is in colour.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.core.errors import ConfigurationError
from services.scorer.dimensions import NAMES

Floats = NDArray[np.float64]

MEASURES_VERSION: Final = "7"
"""Raised when a change of code moves raw values: scores compare only within one version and one table."""

DEFAULT_PATH: Final = Path(__file__).with_name("calibration.json")

LEVELS: Final = (
    0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5,
    0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.965, 0.98, 0.99, 0.995,
)  # fmt: skip
"""Percentiles, 0-1, at which the tables store a raw value."""

LEAST_PHOTOGRAPHS: Final = 100
"""A table of fewer photographs than this says more about chance than about photographs."""

_Z: Final = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
_STRAIGHT: Final = 2.0
_POINTS: Final = 2.1


class CalibrationError(ConfigurationError):
    """A calibration file that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Calibration:
    """Two tables of knots with their provenance."""

    color: Floats
    """[len(LEVELS), 8]: raw values of colour photographs at LEVELS, increasing down each column."""
    monochrome: Floats
    """[len(LEVELS), 8]: the same of monochrome photographs."""
    source: str
    """What the tables were fitted on, in a sentence."""
    count: int
    """How many photographs that were."""

    @property
    def id(self) -> str:
        """The first 12 hex digits of the sha256 over tables and version of the measures."""
        digest = hashlib.sha256(MEASURES_VERSION.encode())
        digest.update(self.color.astype("<f4").tobytes())
        digest.update(self.monochrome.astype("<f4").tobytes())
        return digest.hexdigest()[:12]

    def z(self, raw: Floats, color_weight: Floats) -> Floats:
        """Returns z values [B, 8] of raw values [B, 8]; `color_weight` [B] is 0 for monochrome, 1 for colour."""
        weight = color_weight[:, None]
        return weight * interpolate(raw, self.color) + (1 - weight) * interpolate(raw, self.monochrome)

    def to_json(self) -> str:
        """Returns the tables as text, with five significant digits."""
        content = {
            "measures": MEASURES_VERSION,
            "source": self.source,
            "count": self.count,
            "levels": list(LEVELS),
            "color": _columns(self.color),
            "monochrome": _columns(self.monochrome),
        }
        lines = [f"  {json.dumps(key)}: {_compact(value)}" for key, value in content.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Returns the calibration that `to_json` wrote.

        Raises:
            CalibrationError: the text is no calibration, is of other measures, or has a column that does not increase.
        """
        try:
            content = json.loads(text)
            version, levels = content["measures"], tuple(content["levels"])
            tables = [_table(content[key]) for key in ("color", "monochrome")]
            source, count = str(content["source"]), int(content["count"])
        except (ValueError, KeyError, TypeError) as error:
            raise CalibrationError(f"The calibration cannot be read ({error}): fit it anew.") from error
        if version != MEASURES_VERSION or levels != LEVELS:
            raise CalibrationError(
                f"The calibration is of measures {version}, this scorer has {MEASURES_VERSION}: fit it anew with "
                "python -m services.scorer.calibrate."
            )
        for table in tables:
            if not np.isfinite(table).all() or (np.diff(table, axis=0) <= 0).any():
                raise CalibrationError("The calibration has a column that does not increase: fit it anew.")
        return cls(tables[0], tables[1], source, count)

    @classmethod
    def load(cls, path: Path = DEFAULT_PATH) -> Calibration:
        """Returns the calibration stored at `path`; by default the one that is shipped.

        Raises:
            CalibrationError: the file is missing or unusable.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CalibrationError(f"The calibration {path} cannot be opened ({error.strerror}).") from error


def fit(color: Floats, monochrome: Floats, source: str) -> Calibration:
    """Returns the calibration of raw values [N, 8] of colour photographs and [M, 8] of monochrome ones.

    Raises:
        CalibrationError: there are fewer than 100 of either, or a dimension hardly varies among them.
    """
    tables = []
    for name, raw in (("colour", color), ("monochrome", monochrome)):
        if len(raw) < LEAST_PHOTOGRAPHS:
            raise CalibrationError(f"{len(raw)} {name} photographs are too few: give {LEAST_PHOTOGRAPHS} or more.")
        constant = np.flatnonzero(np.ptp(np.quantile(raw, LEVELS, axis=0), axis=0) < 1e-6)
        if constant.size:
            raise CalibrationError(f"{NAMES[constant[0]]} does not vary among the {name} photographs: give others.")
        # Rounded as they are stored, so that a fit and its file give the same scores and the same id.
        tables.append(_table(_columns(knots_of(raw))))
    return Calibration(tables[0], tables[1], source, len(color))


def knots_of(raw: Floats) -> Floats:
    """Returns the raw values at LEVELS [len(LEVELS), D] of raw values [N, D], increasing down each column."""
    knots = np.quantile(raw, LEVELS, axis=0)
    # Ties keep a slope of their own, so that the map stays one to one.
    steps = np.maximum(np.diff(knots, axis=0), (knots[-1] - knots[0]) * 1e-4)
    return np.asarray(np.concatenate([knots[:1], knots[:1] + steps.cumsum(axis=0)]))


def score(z: Floats) -> Floats:
    """Returns scores, above 0 and below 10, of z values: 5 + 2.1 z for |z| <= 2, then ever less a step."""
    size = np.abs(z)
    straight = np.minimum(size, _STRAIGHT) * _POINTS
    rest = 5 - _STRAIGHT * _POINTS
    tail = rest * (1 - np.exp(-np.maximum(size - _STRAIGHT, 0) * _POINTS / rest))
    return np.asarray(5 + np.sign(z) * (straight + tail))


def interpolate(raw: Floats, knots: Floats) -> Floats:
    """Returns z values [N, D] of raw values [N, D] by knots [len(LEVELS), D] that increase down each column."""
    z = np.empty_like(raw)
    for column in range(raw.shape[1]):
        x, k = raw[:, column], knots[:, column]
        # The slope of a tail is that of the last four knots together: two alone are two photographs.
        low, high = (_Z[3] - _Z[0]) / (k[3] - k[0]), (_Z[-1] - _Z[-4]) / (k[-1] - k[-4])
        inside = np.interp(x, k, _Z)
        z[:, column] = inside + np.minimum(x - k[0], 0) * low + np.maximum(x - k[-1], 0) * high
    return z


def _columns(table: Floats) -> dict[str, list[float]]:
    return {name: [float(f"{value:.6g}") for value in table[:, i]] for i, name in enumerate(NAMES)}


def _table(columns: Mapping[str, Sequence[float]]) -> Floats:
    table = np.array([columns[name] for name in NAMES], np.float64).T
    if table.shape != (len(LEVELS), len(NAMES)):
        raise ValueError(f"a table has the shape {table.shape}")
    return table


def _compact(value: Any) -> str:
    if isinstance(value, dict):
        inner = ",\n".join(f"    {json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items())
        return "{\n" + inner + "\n  }"
    return json.dumps(value)
