"""An advisor's distribution of the eight scores: less than 1 KB of JSON, and what can be said from it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.scorer.calibration import Floats
from services.scorer.dimensions import NAMES

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
_FORMAT: Final = 1
# Enough of a sha256 to find one photograph among the advisor's own.
_ID_DIGITS: Final = 16


@dataclass(frozen=True)
class Distribution:
    """The distribution of one dimension over an advisor's references."""

    mean: float
    """0-10."""
    stddev: float
    """The sample standard deviation (n - 1) in points; 0 with a single reference."""
    quantiles: tuple[float, ...]
    """At QUANTILES, ascending."""
    best: str
    """The first 16 hex digits of the id of the reference that scores highest."""


@dataclass(frozen=True)
class Profile:
    """The distributions of all eight, in the order of DIMENSIONS."""

    advisor: str
    scorer: str
    """The scorer that made it: scores compare only within one."""
    count: int
    """The number of references, 1 and more."""
    monochrome_share: float
    """The share of the references that are monochrome, 0-1."""
    distributions: tuple[Distribution, ...]

    def uncertainty(self) -> float:
        """Returns half the width of the 95% interval of the means, in points, averaged over the dimensions.

        Infinite for a single reference, which says nothing about others.
        """
        if self.count < 2:
            return math.inf
        spread = sum(one.stddev for one in self.distributions) / len(self.distributions)
        return student_975(self.count - 1) * spread / math.sqrt(self.count)

    def to_json(self) -> str:
        """Returns the profile as compact text, under 1,024 bytes for any advisor."""
        rows = [
            [round(one.mean, 2), round(one.stddev, 2), *(round(value, 2) for value in one.quantiles), one.best]
            for one in self.distributions
        ]
        content = {
            "format": _FORMAT,
            "advisor": self.advisor,
            "scorer": self.scorer,
            "count": self.count,
            "monochrome": round(self.monochrome_share, 3),
            "columns": "mean sd q05 q25 q50 q75 q95 best",
            "scores": dict(zip(NAMES, rows, strict=True)),
        }
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Returns the profile that `to_json` wrote.

        Raises:
            ValueError: the text is no profile of this format.
        """
        content = json.loads(text)
        if content["format"] != _FORMAT:
            raise ValueError(f"the profile has format {content['format']}")
        rows = [content["scores"][name] for name in NAMES]
        distributions = tuple(Distribution(row[0], row[1], tuple(row[2:7]), row[7]) for row in rows)
        return cls(content["advisor"], content["scorer"], content["count"], content["monochrome"], distributions)


def build(advisor: str, scorer: str, ids: Sequence[str], scores: Floats, monochrome: Sequence[bool]) -> Profile:
    """Returns the profile of references with these ids and scores [N, 8], N >= 1."""
    deviation = scores.std(axis=0, ddof=1) if len(scores) > 1 else np.zeros(scores.shape[1])
    quantiles = np.quantile(scores, QUANTILES, axis=0)
    distributions = tuple(
        Distribution(
            float(scores[:, d].mean()),
            float(deviation[d]),
            tuple(float(value) for value in quantiles[:, d]),
            ids[int(scores[:, d].argmax())][:_ID_DIGITS],
        )
        for d in range(len(NAMES))
    )
    return Profile(advisor, scorer, len(ids), float(np.mean(monochrome)), distributions)


def student_975(freedom: int) -> float:
    """Returns the 97.5% quantile of Student's t with `freedom` >= 1 degrees, to within 1.5% (exact for 1 and 2).

    Expansion in 1/freedom after Abramowitz and Stegun 26.7.5.
    """
    if freedom == 1:
        return 12.706
    if freedom == 2:
        return 4.303
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))
