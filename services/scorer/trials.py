"""What the scores do when a photograph is changed: counts over real photographs, for the evaluation and the tests.

A trial scores a photograph and its changed versions and keeps 8 numbers of each. Figures are counts of trials: no
threshold in here decides whether the scorer is good.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.scorer import perturb, photographs
from services.scorer.calibration import Floats
from services.scorer.comparison import compare
from services.scorer.dimensions import NAMES
from services.scorer.perturb import COLORED, LOWERING, Pixels
from services.scorer.references import AdvisorReferences
from services.scorer.scoring import Picture, Scorer, Scores

SIDES = ("left", "right", "top", "bottom")
ANGLES = (4.0, 7.0, 10.0)
LARGE = 1024
"""Least long side in px of a photograph whose half size must score the same."""


@dataclass(frozen=True)
class Subject:
    """A photograph to be tried, with what a person said about it."""

    name: str
    pixels: Pixels
    """uint8 [H, W, 3] sRGB."""
    level: bool = False
    """Whether it has lines that are level or upright: a horizon, a building."""
    depth: str = ""
    """"scene" for a deep one, "object" for a flat one, empty for neither."""
    mask: NDArray[np.bool_] | None = None
    """[H, W]: where its subject is, as people see it; None where nobody said."""


@dataclass(frozen=True)
class Trial:
    """One photograph and all its changed versions, scored."""

    subject: Subject
    scores: Scores
    lowered: Mapping[tuple[str, str, str], Floats]
    """Scores [8] by (dimension, change, level) of perturb.LOWERING."""
    same: Mapping[str, Floats]
    """Scores by what should change nothing, each beside what it is compared with: [2, 8]."""
    turned: Mapping[float, Floats]
    """Angle -> scores of the crop without and with rotation: [2, 8]."""
    masked: Mapping[str, Floats]
    """Scores by "clutter", "blur" and "cut left", ... where there is a mask."""


def score_all(scorer: Scorer, versions: Sequence[Pixels]) -> list[Scores]:
    """Returns the scores of pictures of any sizes, in their order."""
    pictures = [Picture.of(Image.fromarray(np.ascontiguousarray(pixels))) for pixels in versions]
    found: list[Scores | None] = [None] * len(pictures)
    for positions in photographs.batches(pictures, 16):
        for position, scores in zip(positions, scorer.score([pictures[i] for i in positions]), strict=True):
            found[position] = scores
    return [scores for scores in found if scores is not None]


def changed(subject: Subject, dimensions: Iterable[str] = tuple(LOWERING)) -> dict[tuple[str, ...], Pixels]:
    """Returns a photograph and its changed versions by what was done: ("original",), ("lowered", dimension, change,
    level), ("same", change), ("small",), ("straight", angle), ("turned", angle) and ("masked", change).
    """
    # The photograph's name seeds its noise, so that it is the same in any order and any selection.
    rng = np.random.default_rng(zlib.crc32(subject.name.encode()))
    pixels = subject.pixels
    versions: dict[tuple[str, ...], Pixels] = {("original",): pixels}
    for dimension in dimensions:
        for change, levels in LOWERING[dimension].items():
            for level, function in levels.items():
                copy = function(pixels, rng)
                # A photograph that is small already is not reduced to a size beyond its own.
                if change != "downscaling" or max(copy.shape[:2]) < max(pixels.shape[:2]):
                    versions["lowered", dimension, change, level] = copy
    versions["same", "flip"] = perturb.flip(pixels)
    versions["same", "white border"] = perturb.mat(pixels)
    versions["same", "JPEG 90 at full size"] = perturb.jpeg(pixels, 90)
    versions["same", "JPEG 97 at full size"] = perturb.jpeg(pixels, 97)
    small = perturb.resize(pixels, 512) if max(pixels.shape[:2]) > 512 else pixels
    versions["small",] = small
    versions["same", "JPEG 90 at 512 px"] = perturb.jpeg(small, 90)
    if max(pixels.shape[:2]) >= LARGE:
        versions["same", "half size"] = perturb.resize(pixels, max(pixels.shape[:2]) // 2)
    elif max(pixels.shape[:2]) >= LARGE // 2:
        versions["same", "twice the size"] = perturb.resize(pixels, 2 * max(pixels.shape[:2]))
    if subject.level:
        for angle in ANGLES:
            versions["straight", str(angle)] = perturb.straight(pixels, angle)
            versions["turned", str(angle)] = perturb.rotate(pixels, angle)
    if subject.mask is not None and subject.mask.any():
        versions["masked", "clutter"] = perturb.clutter_behind(pixels, subject.mask, rng)
        versions["masked", "blur"] = perturb.blur_behind(pixels, subject.mask, 6.0)
        for side in SIDES:
            versions["masked", f"cut {side}"] = perturb.cut_subject(pixels, subject.mask, side)
    return versions


def attempt(scorer: Scorer, subject: Subject, dimensions: Iterable[str] = tuple(LOWERING)) -> Trial:
    """Returns the trial of a photograph; `dimensions` may leave out whole groups of changes."""
    versions = changed(subject, dimensions)
    keys = list(versions)
    scored = dict(zip(keys, score_all(scorer, [versions[key] for key in keys]), strict=True))
    values = {key: scores.values for key, scores in scored.items()}
    original = values["original",]
    return Trial(
        subject,
        scored["original",],
        {(key[1], key[2], key[3]): value for key, value in values.items() if key[0] == "lowered"},
        {
            key[1]: np.stack([values["small",] if "512" in key[1] else original, value])
            for key, value in values.items()
            if key[0] == "same"
        },
        {
            angle: np.stack([values["straight", str(angle)], values["turned", str(angle)]])
            for angle in ANGLES
            if subject.level
        },
        {key[1]: value for key, value in values.items() if key[0] == "masked"},
    )


@dataclass
class Counts:
    """Trials in the right order, of all."""

    right: int = 0
    all: int = 0

    def add(self, right: bool | np.bool_) -> None:
        """Counts one trial."""
        self.right += bool(right)
        self.all += 1

    @property
    def share(self) -> float:
        """The share in the right order, 0-1; NaN without trials."""
        return self.right / self.all if self.all else float("nan")


@dataclass
class Figures:
    """Counts over many trials."""

    order: dict[tuple[str, str], Counts] = field(default_factory=lambda: defaultdict(Counts))
    """By (dimension, change): the dimension falls (rises, for a blurred background)."""
    specific: dict[tuple[str, str], Counts] = field(default_factory=lambda: defaultdict(Counts))
    """By (dimension, change): the dimension moves more than any other."""
    unchanged: dict[tuple[str, str], Counts] = field(default_factory=lambda: defaultdict(Counts))
    """By (change, dimension): the score moves by at most 0.3."""
    not_raised: dict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    """By dimension: no blur raises it by more than 0.5."""

    def add(self, trial: Trial) -> None:
        """Counts a trial in."""
        original = trial.scores.values
        for (dimension, change, _), values in trial.lowered.items():
            if change in COLORED and trial.scores.monochrome:
                continue
            own = NAMES.index(dimension)
            moved = values - original
            self.order[dimension, change].add(moved[own] < 0)
            # What drives emotional_impact (contrast, colour) is by nature another dimension's matter first.
            if dimension != "emotional_impact":
                self.specific[dimension, change].add(abs(moved[own]) > np.abs(np.delete(moved, own)).max())
            if change == "gaussian blur":
                for index, name in enumerate(NAMES):
                    self.not_raised[name].add(moved[index] <= 0.5)
        for change, pair in trial.same.items():
            for index, name in enumerate(NAMES):
                self.unchanged[change, name].add(abs(pair[1, index] - pair[0, index]) <= 0.3)
        for pair in trial.turned.values():
            for name in ("visual_balance", "composition"):
                self.order[name, "rotation"].add(pair[1, NAMES.index(name)] < pair[0, NAMES.index(name)])
        isolation, composition = NAMES.index("subject_isolation"), NAMES.index("composition")
        for change, values in trial.masked.items():
            moved = values - original
            if change == "clutter":
                self.order["subject_isolation", "clutter behind"].add(moved[isolation] < 0)
                self.specific["subject_isolation", "clutter behind"].add(
                    abs(moved[isolation]) > np.abs(np.delete(moved, isolation)).max()
                )
            elif change == "blur":
                self.order["subject_isolation", "blurred background (rises)"].add(moved[isolation] > 0)
            else:
                self.order["composition", "subject cut by the edge"].add(moved[composition] < 0)


def separation(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """Returns the area under the ROC curve: how often a positive scores above another (ties count half); NaN if
    none.
    """
    values, labels = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if labels.all() or not labels.any():
        return float("nan")
    ahead = values[labels][:, None] - values[~labels][None, :]
    return float((ahead > 0).mean() + 0.5 * (ahead == 0).mean())


def flagged_alone(advisor: AdvisorReferences) -> Counts:
    """Counts the references that are flagged as needing work when compared with all the others."""
    counts = Counts()
    profile = advisor.profile
    for left_out in advisor.references:
        others = [one for one in advisor.references if one.id != left_out.id]
        rest = AdvisorReferences.of(profile.advisor, profile.scorer, others)
        counts.add(any(one.needs_work for one in compare(left_out.scores, rest)))
    return counts
