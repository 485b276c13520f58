"""People's ratings of photographs, read from a CSV file.

One line a rating: column `file` names the photograph below the folder of photographs, columns named like dimensions
hold numbers of any scale (higher is better; an empty cell is no rating), and the optional column `group` keeps what
belongs together, such as one photographer's or one series', on one side of every cross-validation. Several lines of one
file are averaged.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.core.errors import ConfigurationError
from services.scorer.calibration import Floats
from services.scorer.dimensions import NAMES


@dataclass(frozen=True)
class Ratings:
    """The mean ratings of photographs."""

    files: tuple[str, ...]
    """Names below the folder of photographs; each once."""
    groups: tuple[str, ...]
    """Of each photograph; its own name where none was given."""
    values: Floats
    """[N, 8]; NaN where nobody rated."""
    ignored: tuple[str, ...]
    """Columns that are neither `file` nor `group` nor a dimension."""

    def paths(self, folder: Path) -> list[Path]:
        """Returns the photographs' paths, in order.

        Raises:
            ConfigurationError: some are not there; the sentence names the first three.
        """
        found = [folder / name for name in self.files]
        missing = [name for name, path in zip(self.files, found, strict=True) if not path.is_file()]
        if missing:
            raise ConfigurationError(
                f"{len(missing)} of {len(found)} rated photographs are not below {folder}: {', '.join(missing[:3])}"
                f"{', ...' if len(missing) > 3 else ''}; correct the column file or --photos."
            )
        return found


def read(path: Path) -> Ratings:
    """Returns the ratings of a CSV file.

    Raises:
        ConfigurationError: it cannot be read, lacks a column, or holds a rating that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = tuple(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"The ratings {path} cannot be read ({error}).") from error
    rated = [name for name in NAMES if name in columns]
    if "file" not in columns:
        raise ConfigurationError(f"{path} has no column file (it has: {', '.join(columns) or 'nothing'}).")
    if not rated:
        raise ConfigurationError(f"{path} has no column named like a dimension: {', '.join(NAMES)}.")
    if not rows:
        raise ConfigurationError(f"{path} has no line below its first.")
    given: dict[str, list[Floats]] = defaultdict(list)
    groups: dict[str, str] = {}
    for number, row in rows:
        name = (row["file"] or "").strip()
        if not name:
            raise ConfigurationError(f"Line {number} of {path} names no file.")
        group = (row.get("group") or "").strip() or name
        if groups.setdefault(name, group) != group:
            raise ConfigurationError(f"Line {number} of {path} puts {name} into a second group, {group}.")
        given[name].append(np.array([_rating(row, column, number, path) for column in NAMES]))
    ignored = tuple(column for column in columns if column not in ("file", "group", *NAMES))
    means = np.stack([_mean(np.stack(lines)) for lines in given.values()])
    return Ratings(tuple(given), tuple(groups[name] for name in given), means, ignored)


def _rating(row: Mapping[str, str | None], column: str, number: int, path: Path) -> float:
    text = (row.get(column) or "").strip()
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigurationError(f"Line {number} of {path}: {text!r} in column {column} is no number.")
    return value


def _mean(lines: Floats) -> Floats:
    """The mean [8] of lines [n, 8] over what is not NaN; NaN where all are."""
    there = ~np.isnan(lines)
    count = there.sum(axis=0)
    return np.where(count > 0, np.where(there, lines, 0).sum(axis=0) / np.maximum(count, 1), np.nan)
