"""`python -m services.scorer.weigh --photos DIR`: how much each term of a dimension weighs, from photographs alone.

Every photograph is changed as the evaluation changes it, and the terms of a dimension are read before and after.
The weights are those of a discriminant after Fisher (1936) that no term may enter with the wrong sign:

    w = argmin of w'(C + O + D + r I) w / 2 - w'(m + r 1)   with w >= 0, each term in its standard deviations

with C the covariance of the terms over the photographs (which becomes the unit of the score), m and D the mean and the
covariance of their fall by what must lower the dimension, O the mean square of their move by what is
another dimension's matter, and r = 0.3, which draws them together: without a change that tells them apart, all
terms would weigh the same. What is printed goes into WEIGHTS of the measure; raise MEASURES_VERSION then, and calibrate
anew. Weights must not be fitted on photographs that the evaluation is to be believed on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from services.core.commands.ending import BEGINS_ANEW, exit_code
from services.core.commands.progress import progress
from services.core.errors import ConfigurationError
from services.scorer import photographs, trials
from services.scorer.calibration import Floats
from services.scorer.dimensions import DIMENSIONS
from services.scorer.evaluate import subjects
from services.scorer.measures import (
    color_harmony,
    composition,
    emotional_impact,
    lighting,
    subject_isolation,
    visual_balance,
)
from services.scorer.measures.scene import Scene
from services.scorer.perturb import COLORED, Pixels
from services.scorer.scoring import Picture
from services.scorer.trials import Subject

WEIGHED: Final = {
    "composition": composition.WEIGHTS,
    "lighting": lighting.WEIGHTS,
    "color_harmony": color_harmony.WEIGHTS,
    "subject_isolation": subject_isolation.WEIGHTS,
    "visual_balance": visual_balance.WEIGHTS,
    "emotional_impact": emotional_impact.WEIGHTS,
}
"""The weights that are in use, of each dimension that a change of a photograph must lower."""

TOGETHER: Final = 0.3
"""How strongly weights are drawn together."""

BY_NAME: Final = {dimension.name: dimension for dimension in DIMENSIONS}
_SWEEPS: Final = 2000


@dataclass
class Moves:
    """What the terms of one dimension did."""

    names: tuple[str, ...]
    photographs: list[Floats] = field(default_factory=list)
    """Terms [T] of each photograph as it is."""
    falls: list[Floats] = field(default_factory=list)
    """How far they fell by each change that must lower the dimension (rose, by one that must raise it)."""
    others: list[Floats] = field(default_factory=list)
    """How far they fell by each change that is another dimension's matter."""

    def weights(self) -> dict[str, float]:
        """Returns the weights by name, such that the weighted sum varies by one over the photographs."""
        terms, falls, others = (np.array(rows) for rows in (self.photographs, self.falls, self.others))
        unit = terms.std(axis=0) + 1e-9
        terms, falls, others = terms / unit, falls / unit, others / unit
        spread = np.cov(terms.T)
        square = spread + np.cov(falls.T) + others.T @ others / len(others)
        weights = _not_negative(square + TOGETHER * np.eye(len(unit)), falls.mean(axis=0) + TOGETHER)
        weights /= np.sqrt(weights @ spread @ weights) * unit
        return {name: float(f"{weight:.2g}") for name, weight in zip(self.names, weights, strict=True)}

    def right(self, weights: dict[str, float]) -> float:
        """Returns the share of the changes that lower the sum with these weights, 0-1."""
        return float((np.array(self.falls) @ [weights[name] for name in self.names] > 0).mean())


def _not_negative(square: Floats, linear: Floats) -> Floats:
    """The minimum of w'Sw/2 - w'm with w >= 0 by coordinate descent; S is positive definite."""
    weights = np.zeros(len(linear))
    for _ in range(_SWEEPS):
        for i in range(len(linear)):
            rest = linear[i] - square[i] @ weights + square[i, i] * weights[i]
            weights[i] = max(0.0, rest / square[i, i])
    return weights


def read(subject: Subject, moves: dict[str, Moves]) -> None:
    """Adds what the terms of a photograph did to the moves, by dimension."""
    versions = trials.changed(subject)
    keys = [key for key in versions if key[0] not in ("same", "small")]
    read_terms = dict(zip(keys, terms_of([versions[key] for key in keys], list(moves)), strict=True))
    before, before_color = read_terms["original",]
    for dimension, move in moves.items():
        if dimension == "color_harmony" and before_color < 0.5:
            continue
        move.photographs.append(before[dimension])
        for key, (after, color) in read_terms.items():
            kind, owners = key[0], _owners(key)
            if kind in ("original", "straight") or (key[-2] in COLORED and before_color < 0.5):
                continue
            if dimension == "color_harmony" and color < 0.5:
                continue
            upright = read_terms["straight", key[1]][0] if kind == "turned" else before
            fall = upright[dimension] - after[dimension]
            if dimension in owners:
                move.falls.append(-fall if key == ("masked", "blur") else fall)
            elif kind == "lowered" and "emotional_impact" not in owners:
                move.others.append(fall)


def _owners(key: tuple[str, ...]) -> tuple[str, ...]:
    """The dimensions whose matter a change is."""
    if key[0] == "lowered":
        return (key[1],)
    if key[0] == "turned":
        return ("composition", "visual_balance")
    return ("composition",) if key[-1].startswith("cut") else ("subject_isolation",)


def terms_of(versions: Sequence[Pixels], dimensions: Sequence[str]) -> Iterator[tuple[dict[str, Floats], float]]:
    """Yields the terms [T] by dimension and the colour weight of each picture."""
    pictures = [Picture.of(Image.fromarray(np.ascontiguousarray(pixels))) for pixels in versions]
    found: dict[int, tuple[dict[str, Floats], float]] = {}
    with torch.inference_mode():
        for positions in photographs.batches(pictures):
            scene = Scene.of([pictures[i].pixels for i in positions])
            stacked = {
                name: torch.stack(list(BY_NAME[name].measure(scene).terms.values()), 1).double().numpy()
                for name in dimensions
            }
            for row, (i, color) in enumerate(zip(positions, scene.color_weight.tolist(), strict=True)):
                found[i] = {name: terms[row] for name, terms in stacked.items()}, color
    yield from (found[i] for i in range(len(pictures)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 2 with a sentence on stderr, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m services.scorer.weigh", description=__doc__)
    parser.add_argument("dimensions", nargs="+", choices=list(WEIGHED), help="dimensions to weigh the terms of")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs to fit on")
    parser.add_argument("--labels", type=Path, help="CSV with file, level, depth, subject, as for evaluate")
    parser.add_argument("--limit", type=int, default=0, help="at most so many photographs, evenly taken; 0 for all")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options), BEGINS_ANEW)


def _run(options: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    moves = {name: Moves(tuple(WEIGHED[name])) for name in options.dimensions}
    try:
        total = len(photographs.find(options.photos))
        if not total:
            raise ConfigurationError(f"No photographs lie below {options.photos}: give a folder of photographs.")
        with progress("Weighing terms", min(total, options.limit or total), quiet=options.quiet) as shown:
            for subject in subjects(options.photos, options.labels, options.limit, shown):
                read(subject, moves)
                shown.advance()
        for name, move in moves.items():
            if not (len(move.photographs) > 1 and len(move.falls) > 1 and move.others):
                raise ConfigurationError(f"Nothing changes {name} in these photographs: give more, or --labels.")
            weights = move.weights()
            print(f"{name}, {len(move.photographs)} photographs, {len(move.falls)} changes of its own:")
            print(f"  now {move.right(WEIGHED[name]):.3f} in the right order, then {move.right(weights):.3f} with")
            print(f"  {weights}")
    except (OSError, KeyError) as error:
        raise ConfigurationError(str(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
