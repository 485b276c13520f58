"""`python -m services.scorer.evaluate --photos DIR`: what the scores do on photographs that nothing was fitted on.

Every photograph is scored beside changed versions of itself, and the shares in the right order are printed, with the
figures that are to be reached. `--labels FILE.csv` adds what only people can say: columns `file` (name below DIR),
`level` (1: it has level or upright lines), `depth` (scene or object) and `subject` (its outline, the corners of a
polygon in shares of width and height: "0.31,0.20 0.66,0.24 0.58,0.90"); all but the first may be empty.
`--advisor-dir` adds the leave-one-out figure of an advisor's references.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from services.core.advisors import load_advisor
from services.core.commands.ending import BEGINS_ANEW, exit_code
from services.core.commands.progress import Progress, progress
from services.core.errors import ConfigurationError, InvalidImage
from services.core.files.whole_file import write_whole
from services.core.images import reading
from services.scorer import photographs, trials
from services.scorer.border import inside
from services.scorer.calibration import DEFAULT_PATH, Calibration, Floats
from services.scorer.dimensions import NAMES
from services.scorer.references import AdvisorReferences, Reference
from services.scorer.scoring import Scorer, Scores
from services.scorer.trials import Counts, Figures, Subject, Trial

LEAST_FOR_SPREAD = 50
GROUP = 27


@dataclass(frozen=True)
class Line:
    """One figure."""

    name: str
    value: float
    count: int
    """Over how many trials or photographs; 0 where nothing could be measured."""
    goal: float
    at_least: bool = True
    """Whether the goal is a least value or a greatest one."""

    @property
    def reached(self) -> bool:
        """Whether the goal is reached; a figure that could not be measured is not."""
        return self.count > 0 and (self.value >= self.goal if self.at_least else self.value <= self.goal)


_ORDER_GOALS = {
    ("focus_sharpness", "gaussian blur"): 0.990,
    ("focus_sharpness", "motion blur"): 0.987,
    ("focus_sharpness", "noise"): 0.985,
    ("focus_sharpness", "downscaling"): 0.981,
    ("lighting", "under-exposure"): 0.987,
    ("lighting", "over-exposure"): 0.93,
    ("lighting", "contrast crush"): 0.973,
    ("color_harmony", "hue scramble by block"): 0.99,
    ("color_harmony", "hue scramble by pixel"): 0.98,
    ("color_harmony", "colour cast"): 0.80,
    ("color_harmony", "oversaturation"): 0.80,
    ("emotional_impact", "large-scale contrast removed"): 0.90,
    ("emotional_impact", "desaturation"): 0.90,
    ("visual_balance", "rotation"): 0.91,
    ("composition", "rotation"): 0.88,
    ("subject_isolation", "clutter behind"): 0.99,
    ("subject_isolation", "blurred background (rises)"): 0.99,
    ("composition", "subject cut by the edge"): 0.67,
}


def lines(found: Sequence[Trial], advisors: Sequence[AdvisorReferences]) -> list[Line]:
    """Returns all figures of the trials; those that lack photographs have a count of 0."""
    figures = Figures()
    for trial in found:
        figures.add(trial)
    report = [
        Line(f"{dimension} falls: {change}", counts.share, counts.all, _ORDER_GOALS[dimension, change])
        for dimension, change in _ORDER_GOALS
        for counts in [figures.order[dimension, change]]
    ]
    specific = Counts()
    for (dimension, change), counts in figures.specific.items():
        report.append(Line(f"specific to {dimension}: {change}", counts.share, counts.all, 0.90))
        specific.right += counts.right
        specific.all += counts.all
    report.append(Line("specific: all changes", specific.share, specific.all, 0.90))
    for name, counts in figures.not_raised.items():
        if name != "focus_sharpness":
            report.append(Line(f"blur raises {name} by at most 0.5", counts.share, counts.all, 0.95))
    small = "JPEG 90 at 512 px"
    sizes = ("half size", "twice the size")
    for change in (*sizes, "JPEG 90 at full size", "flip", "white border", "JPEG 97 at full size", small):
        for name in NAMES:
            counts = figures.unchanged[change, name]
            goal = 0.96 if change != small else 0.90 if name == "focus_sharpness" else 0.94
            report.append(Line(f"{name} within 0.3: {change}", counts.share, counts.all, goal))
    report.extend(_spread([trial.scores for trial in found]))
    depth = NAMES.index("depth_perspective")
    labelled = [trial for trial in found if trial.subject.depth]
    area = trials.separation(
        [trial.scores.values[depth] for trial in labelled], [trial.subject.depth == "scene" for trial in labelled]
    )
    report.append(Line("depth_perspective: scenes above objects (AUC)", area, len(labelled), 0.70))
    for name, group in (("groups of the photographs", _groups(found)), ("advisors", list(advisors))):
        counts = Counts()
        for advisor in group:
            one = trials.flagged_alone(advisor)
            counts.right += one.right
            counts.all += one.all
        report.append(Line(f"needs work, leave one out: {name}", counts.share, counts.all, 0.35, at_least=False))
    return report


def _spread(scores: Sequence[Scores]) -> list[Line]:
    if len(scores) < LEAST_FOR_SPREAD:
        return [Line("spread between p5 and p95", float("nan"), 0, 6.0)]
    matrix: Floats = np.array([one.values for one in scores])
    low, high = np.quantile(matrix, (0.05, 0.95), axis=0)
    report = [
        Line(f"{name}: points between p5 and p95", high[d] - low[d], len(scores), 6.0) for d, name in enumerate(NAMES)
    ]
    correlation: Floats = np.asarray(np.corrcoef(matrix.T)) - np.eye(len(NAMES))
    a, b = np.unravel_index(np.abs(correlation).argmax(), correlation.shape)
    name = f"largest correlation ({NAMES[a]}, {NAMES[b]})"
    return [*report, Line(name, float(abs(correlation[a, b])), len(scores), 0.6, at_least=False)]


def _groups(found: Sequence[Trial]) -> list[AdvisorReferences]:
    """Every 27 photographs as if they were one photographer's: more mixed than any photographer's own."""
    made = []
    for start in range(0, len(found) - GROUP + 1, GROUP):
        references = [
            Reference(trial.subject.name, trial.subject.name, trial.subject.name, (), trial.scores)
            for trial in found[start : start + GROUP]
        ]
        made.append(AdvisorReferences.of("group", "evaluation", references))
    return made


def subjects(folder: Path, labels: Path | None, limit: int, shown: Progress) -> Iterator[Subject]:
    """Yields the photographs below a folder, at most `limit` evenly taken (0 for all), with what the labels say.

    What cannot be read is named on the progress and left out.
    """
    said = {}
    if labels is not None:
        with labels.open(newline="", encoding="utf-8") as file:
            said = {row["file"]: row for row in csv.DictReader(file)}
    paths = photographs.find(folder)
    if limit and len(paths) > limit:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, limit).round().astype(int)]
    for path in paths:
        try:
            pixels = np.asarray(reading.decode(path.read_bytes()))
        except (OSError, InvalidImage) as error:
            shown.say(f"{path.name} is left out: {error}")
            continue
        name = path.relative_to(folder).as_posix()
        row = said.get(name, {})
        mask = _outlined(row["subject"], pixels.shape) if row.get("subject") else None
        # What is done to a photograph is not done to its border.
        left, top, right, bottom = inside(Image.fromarray(pixels))
        within = np.s_[top:bottom, left:right]
        yield Subject(
            name,
            pixels[within],
            row.get("level") == "1",
            row.get("depth") or "",
            None if mask is None else mask[within],
        )


def _outlined(outline: str, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Returns the mask [H, W] of an outline in shares of width and height.

    Raises:
        ConfigurationError: it is none.
    """
    height, width = shape[:2]
    try:
        corners = [tuple(map(float, corner.split(","))) for corner in outline.split()]
        mask = Image.new("1", (width, height))
        ImageDraw.Draw(mask).polygon([(x * width, y * height) for x, y in corners], fill=1)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{outline[:60]!r} is no outline: give corners as x,y in shares of the frame."
        ) from error
    return np.asarray(mask)


def _advisor(folder: Path, scorer: Scorer) -> AdvisorReferences:
    advisor = load_advisor(folder)
    references = []
    for file in advisor.photographs:
        content = file.path.read_bytes()
        (scores,) = scorer.score([photographs.picture(content)])
        references.append(
            Reference(reading.sha256(content), file.about.title, file.about.file_name, file.about.best_for, scores)
        )
    return AdvisorReferences.of(advisor.id, scorer.id, references)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 2 with a sentence on stderr, 130 interrupted. Goals that are missed
    are no error.
    """
    parser = argparse.ArgumentParser(prog="python -m services.scorer.evaluate", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs that nothing was fitted on")
    parser.add_argument("--labels", type=Path, help="CSV with file, level, depth, subject")
    parser.add_argument("--advisor-dir", type=Path, action="append", default=[], help="an advisor's folder; repeatable")
    parser.add_argument("--calibration", type=Path, default=DEFAULT_PATH, help="the calibration to evaluate")
    parser.add_argument("--limit", type=int, default=0, help="at most so many photographs, evenly taken; 0 for all")
    parser.add_argument("--json", type=Path, help="file to write the figures to, as well")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options), BEGINS_ANEW)


def _run(options: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    try:
        scorer = Scorer(Calibration.load(options.calibration))
        total = len(photographs.find(options.photos))
        if not total:
            raise ConfigurationError(f"No photographs lie below {options.photos}: give a folder of photographs.")
        total = min(total, options.limit or total)
        with progress("Trying photographs", total, quiet=options.quiet) as shown:
            found = []
            for subject in subjects(options.photos, options.labels, options.limit, shown):
                found.append(trials.attempt(scorer, subject))
                shown.advance()
        advisors = [_advisor(folder, scorer) for folder in options.advisor_dir]
    except (InvalidImage, OSError, KeyError) as error:
        raise ConfigurationError(str(error)) from error
    report = lines(found, advisors)
    print(f"{scorer.id} on {len(found)} photographs of {options.photos}")
    for line in report:
        if not line.count:
            print(f"{'':8}{line.name}: not measured, no photograph fits")
            continue
        sign = ">=" if line.at_least else "<="
        verdict = "" if line.reached else "  MISSED"
        print(f"{line.value:8.3f}  {line.name} (n {line.count}, goal {sign} {line.goal:g}){verdict}")
    if options.json:
        content = [{**vars(line), "value": None if np.isnan(line.value) else float(line.value)} for line in report]
        figures = {"scorer": scorer.id, "photographs": len(found), "figures": content}
        write_whole(options.json, json.dumps(figures, indent=1).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
