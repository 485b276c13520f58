"""`python -m services.scorer.calibrate --photos DIR`: fits the calibration tables on a folder of photographs.

Colour photographs give the colour table; all photographs, turned to greys, the monochrome one. Files that
cannot be read are named and left out. The photographs themselves go nowhere: 464 numbers are written.
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
from services.scorer import photographs
from services.scorer.calibration import DEFAULT_PATH, fit
from services.scorer.scoring import measure


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 2 with a sentence on stderr, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m services.scorer.calibrate", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of everyday photographs, 100 or more")
    parser.add_argument("--source", default="", help="what the photographs are, in a sentence; kept in the file")
    parser.add_argument("--out", type=Path, default=DEFAULT_PATH, help="file to write")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options), BEGINS_ANEW)


def _run(options: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    paths = photographs.find(options.photos)
    if not paths:
        raise ConfigurationError(f"No photographs lie below {options.photos}: give a folder of photographs.")
    color, monochrome = [], []
    with progress("Measuring photographs", len(paths), quiet=options.quiet) as bar:
        for _, batch in photographs.read_batches(paths, bar):
            raw, _, color_weight, _ = measure(batch)
            color.append(raw[color_weight > 0.5])
            monochrome.append(measure([photographs.grey(picture) for picture in batch])[0])
    source = options.source or f"{len(paths)} photographs of {options.photos.resolve().name}"
    if not color:
        raise ConfigurationError(f"None of the {len(paths)} photographs below {options.photos} can be read.")
    calibration = fit(np.concatenate(color), np.concatenate(monochrome), source)
    write_whole(options.out, calibration.to_json().encode())
    print(f"{options.out}: {calibration.id}, {calibration.count} colour photographs, {len(paths)} in all.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
