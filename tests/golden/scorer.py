"""The scores of photographs that everybody has, so that a change of the measures shows.

`python -m tests.golden.scorer` makes scorer.json anew; do so only when the measures are meant to change.
"""

from __future__ import annotations

import json
from pathlib import Path

from services.scorer import photographs
from services.scorer.calibration import Calibration
from services.scorer.dimensions import NAMES
from services.scorer.scoring import Scorer
from tests.pictures import encoded
from tests.unit.scorer.pictures import COLOURFUL, photograph

PATH = Path(__file__).with_name("scorer.json")


def scores() -> dict[str, dict[str, float]]:
    """Returns the eight scores of each photograph of skimage.data, by name, to three digits."""
    scorer = Scorer(Calibration.load())
    found = {}
    for name in (*COLOURFUL, "camera"):
        (one,) = scorer.score([photographs.picture(encoded(photograph(name)))])
        found[name] = {d: round(float(value), 3) for d, value in zip(NAMES, one.values, strict=True)}
    return found


if __name__ == "__main__":
    content = {"scorer": Scorer(Calibration.load()).id, "scores": scores()}
    PATH.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
