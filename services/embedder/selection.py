"""Which of the near references are shown: those that fit a filter, and not one picture three times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.core.errors import InvalidArgument
from services.embedder.encoder import Matrix

LEAST_YEAR, GREATEST_YEAR = 1800, 2200
MAX_TAGS = 20


@dataclass(frozen=True)
class Filter:
    """What a reference must have to be found; every condition that is set must hold."""

    year_from: int | None = None
    """The least year."""
    year_to: int | None = None
    """The greatest year."""
    tags: frozenset[str] = frozenset()
    """One of these, case-folded, must be among the tags."""

    @classmethod
    def of(cls, year_from: int | None, year_to: int | None, tags: Sequence[str]) -> Filter:
        """Returns the filter that a request asks for.

        Raises:
            InvalidArgument: a year is out of range, the years are in the wrong order, or there are too many tags.
        """
        for year, name in ((year_from, "year_from"), (year_to, "year_to")):
            if year is not None and not LEAST_YEAR <= year <= GREATEST_YEAR:
                raise InvalidArgument(
                    f"filter.{name} is {year}; give a year from {LEAST_YEAR} to {GREATEST_YEAR}.",
                    field=f"filter.{name}",
                )
        if year_from is not None and year_to is not None and year_from > year_to:
            raise InvalidArgument("filter.year_from is after filter.year_to; exchange them.", field="filter.year_from")
        if len(tags) > MAX_TAGS:
            raise InvalidArgument(
                f"filter.tags has {len(tags)} keywords; give at most {MAX_TAGS}.", field="filter.tags"
            )
        return cls(year_from, year_to, frozenset(tag.strip().casefold() for tag in tags))


class Facets:
    """What the references of an advisor are filtered by, made once so that no filter looks at each of them."""

    def __init__(self, references: Iterable[tuple[int | None, Sequence[str]]]) -> None:
        """Takes the year and the tags of every reference, in the order of the labels."""
        years: list[int] = []
        tagged: dict[str, list[int]] = {}
        for label, (year, tags) in enumerate(references):
            years.append(year or 0)
            for tag in {one.casefold() for one in tags}:
                tagged.setdefault(tag, []).append(label)
        self._years = np.asarray(years, dtype=np.int16)
        """0 where there is none, before every year that can be asked for."""
        self._tagged = {tag: np.asarray(labels, dtype=np.int64) for tag, labels in tagged.items()}

    def fitting(self, only: Filter) -> npt.NDArray[np.int64]:
        """Returns the labels of the references that fit, ascending."""
        fit = np.ones(len(self._years), dtype=np.bool_)
        if only.year_from is not None or only.year_to is not None:
            fit &= self._years >= (LEAST_YEAR if only.year_from is None else only.year_from)
            fit &= self._years <= (GREATEST_YEAR if only.year_to is None else only.year_to)
        if only.tags:
            carries = np.zeros(len(self._years), dtype=np.bool_)
            for tag in only.tags & self._tagged.keys():
                carries[self._tagged[tag]] = True
            fit &= carries
        return np.flatnonzero(fit)


def diverse(similarities: Sequence[float], vectors: Matrix, count: int, diversity: float) -> list[int]:
    """Returns the places of `count` (or all, if fewer) candidates by maximal marginal relevance, in ascending order.

    `similarities` to the query descend; row n of `vectors` (unit length) is candidate n. Each choice maximises
    (1 - diversity) x its similarity to the query - diversity x its greatest similarity to those chosen (Carbonell &
    Goldstein 1998); the first candidate is always chosen, and of equals the nearer one.
    """
    relevance = np.asarray(similarities, dtype=np.float64)
    exact = vectors.astype(np.float64)
    chosen = [0][: len(relevance)]
    resemblance = exact @ exact[0] if chosen else relevance
    while len(chosen) < min(count, len(relevance)):
        worth = (1.0 - diversity) * relevance - diversity * resemblance
        worth[chosen] = -np.inf
        best = int(np.argmax(worth))
        chosen.append(best)
        resemblance = np.maximum(resemblance, exact @ exact[best])
    return sorted(chosen)
