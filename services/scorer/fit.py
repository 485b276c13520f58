"""`python -m services.scorer.fit --ratings FILE.csv --photos DIR`: fits heads and tables on people's ratings.

With `--clip-path` (or MONDRIAN_SCORER_CLIP_PATH) heads read CLIP's embedding beside the measures, and CLIP's prompts
are calibrated too; for prompts alone no ratings are needed. `--calibration-out` fits the measures' own tables on the
same photographs, as `python -m services.scorer.calibrate` would. What is printed is the rank correlation with ratings
that no head has seen; nothing is kept that the ratings do not prefer to the measures alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from services.core.commands.ending import BEGINS_ANEW, exit_code
from services.core.commands.progress import progress
from services.core.errors import ConfigurationError
from services.core.files.whole_file import write_whole
from services.core.models.devices import prepare_device
from services.scorer import calibration as calibrations
from services.scorer import fitting, learned_file, photographs, ratings, ridge
from services.scorer.calibration import DEFAULT_PATH, Calibration
from services.scorer.clip import Backbone, fixed_picture, load_backbone
from services.scorer.dimensions import NAMES
from services.scorer.fitting import Sample, Verdict
from services.scorer.learned import PROMPT_WEIGHTS, Heads, Learned, features
from services.scorer.scoring import measure
from services.scorer.settings import ScorerSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 2 with a sentence on stderr, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m services.scorer.fit", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of the photographs, 100 or more")
    parser.add_argument("--ratings", type=Path, help="CSV with file, dimensions and perhaps group")
    parser.add_argument("--clip-path", type=Path, help="open_clip folder; default MONDRIAN_SCORER_CLIP_PATH")
    parser.add_argument("--out", type=Path, help="file to write; default where the settings look for it")
    parser.add_argument("--calibration-out", type=Path, help="file for the measures' tables of these photographs")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options), BEGINS_ANEW)


def _run(options: argparse.Namespace) -> int:
    settings = ScorerSettings.load(**({"clip_path": options.clip_path} if options.clip_path else {}))
    out = options.out or settings.heads_file
    if out is None:
        raise ConfigurationError(f"Name the file to write: --out {learned_file.FILE_NAME}, or a --clip-path.")
    if options.ratings is None and settings.clip_path is None:
        raise ConfigurationError("There is nothing to fit: give --ratings FILE.csv, a --clip-path, or both.")
    for file in filter(None, (out, options.calibration_out)):
        # What takes an hour must not be found to have no place at its end.
        if not file.parent.is_dir():
            raise ConfigurationError(f"{file.parent} is no folder to write {file.name} into; make it first.")
    said = ratings.read(options.ratings) if options.ratings else None
    if said is not None:
        fitting.check(said.values, said.groups)
        if said.ignored:
            print(f"Columns that are no dimension are ignored: {', '.join(said.ignored)}.", file=sys.stderr)
    paths = said.paths(options.photos) if said is not None else photographs.find(options.photos)
    device, dtype = prepare_device(settings)
    torch.set_num_threads(1)
    backbone = load_backbone(settings.clip_path, device, dtype) if settings.clip_path else None
    calibration = Calibration.load(settings.calibration_path or DEFAULT_PATH)
    source = f"{len(paths)} photographs of {options.photos.resolve().name}"

    sample, there, grey = _measure(paths, backbone, device, options)
    if options.calibration_out:
        raw = sample.features[:, : len(NAMES)]
        calibration = calibrations.fit(raw[sample.color_weight > 0.5], grey, source)
    z = sample.z(calibration)
    asked = fitting.fit_prompts(sample, backbone, z) if backbone is not None else None
    if asked is not None:
        mute = [name for d, name in enumerate(NAMES) if PROMPT_WEIGHTS[d] and not asked.weight[d]]
        if mute:
            print(f"CLIP's prompts tell no photographs apart, and are not asked, in: {', '.join(mute)}.")
    heads: Heads | None = None
    verdicts: list[Verdict] = []
    if said is not None:
        values, groups = said.values[there], [said.groups[i] for i in there]
        fitting.check(values, groups)
        with progress("Cross-validating", len(NAMES), quiet=options.quiet) as bar:
            heads, verdicts = fitting.fit_heads(sample, z, values, groups, asked, bar)
        print(_report(verdicts, groups))
        for verdict in verdicts:
            if asked is not None and verdict.choice != "prompts":
                asked.weight[NAMES.index(verdict.dimension)] = 0
        heads = heads if heads.weight.any() else None
    if asked is not None and not asked.weight.any():
        asked = None
    if options.calibration_out:
        write_whole(options.calibration_out, calibration.to_json().encode())
        print(f"{options.calibration_out}: {calibration.id}; serve it with MONDRIAN_SCORER_CALIBRATION_PATH.")
    if heads is None and asked is None:
        print(f"Nothing is kept beside the measures: {out} is not written.")
        return 0
    fixed = backbone.embed([fixed_picture()])[0].astype(np.float64) if backbone is not None else np.zeros(0)
    learned = Learned(backbone.sha256 if backbone else "", fixed, heads, asked, source)
    learned_file.write(learned, out)
    print(f"{out}: {learned.digest()[:12]}; pre-compute the advisors again with it.")
    return 0


def _measure(
    paths: Sequence[Path], backbone: Backbone | None, device: torch.device, options: argparse.Namespace
) -> tuple[Sample, list[int], np.ndarray]:
    """Returns the sample, the position in `paths` of each of its rows, and the raw values in greys [N, 8] where the
    measures' tables are to be fitted.
    """
    rows, there, grey = [], [], []
    with progress("Measuring photographs", len(paths), quiet=options.quiet) as bar:
        for positions, batch in photographs.read_batches(paths, bar):
            raw, _, color_weight, values = measure(batch, device)
            embeddings = backbone.embed([one.pixels for one in batch]) if backbone is not None else None
            rows.append((features(raw, values), color_weight, embeddings))
            there.extend(positions)
            if options.calibration_out:
                grey.append(measure([photographs.grey(one) for one in batch], device)[0])
    if len(there) < calibrations.LEAST_PHOTOGRAPHS:
        raise ConfigurationError(
            f"{len(there)} photographs can be used, too few: give {calibrations.LEAST_PHOTOGRAPHS} or more."
        )
    together = np.concatenate([row[2] for row in rows]) if backbone is not None else None
    sample = Sample(np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows]), together)
    return sample, there, np.concatenate(grey) if grey else np.zeros((0, len(NAMES)))


def _report(verdicts: Sequence[Verdict], groups: Sequence[str]) -> str:
    """Returns the table of what the ratings say of photographs in these groups."""
    lines = [
        f"{len(groups)} photographs in {len(set(groups))} groups, {ridge.FOLDS}-fold; "
        "rank correlation with the ratings [95% interval]",
        f"{'dimension':18}{'rated':>6}  {'measures':22}{'with a head (gain)':28}{'with prompts (gain)':28}kept",
    ]
    for one in verdicts:
        alone = f"{one.measures:.2f} [{one.interval[0]:.2f}, {one.interval[1]:.2f}]"
        cells = [
            "-" if candidate is None else f"{candidate.correlation:.2f} [{low:+.2f}, {high:+.2f}]"
            for candidate in (one.head, one.prompts)
            for low, high in [candidate.gain if candidate else (0.0, 0.0)]
        ]
        lines.append(f"{one.dimension:18}{one.rated:>6}  {alone:22}{cells[0]:28}{cells[1]:28}{one.choice}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
