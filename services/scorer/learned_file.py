"""What is learned, in one safetensors file.

The file is bound to what it was fitted with: to the measures' version, and to the backbone by its sha256 and by the
embedding of a fixed picture, which would also show another preparation or a broken arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from services.core.errors import ConfigurationError
from services.core.files.whole_file import write_whole
from services.scorer.calibration import LEVELS, MEASURES_VERSION
from services.scorer.dimensions import NAMES
from services.scorer.learned import FEATURES, Heads, Learned, Prompts

FILE_NAME: Final = "scorer_heads.safetensors"
_ANEW: Final = "fit them anew with python -m services.scorer.fit"


def write(learned: Learned, path: Path) -> None:
    """Writes the file, whole or not at all.

    Raises:
        ConfigurationError: it cannot be written.
    """
    metadata = {**_bound(), "backbone": learned.backbone, "source": learned.source}
    write_whole(path, save(learned.arrays(), metadata))


def read(path: Path) -> Learned:
    """Returns what `write` wrote.

    Raises:
        ConfigurationError: the file is missing, damaged, or of other measures than this scorer's.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            # Checked before the arrays are read: those of another kind of file may be large, or of types that numpy
            # lacks.
            if any(metadata.get(key) != value for key, value in _bound().items()):
                raise ConfigurationError(
                    f"The scorer's heads {path} were fitted with other measures than this scorer's: {_ANEW}."
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"The scorer's heads {path} cannot be read ({error}): {_ANEW}.") from error
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ConfigurationError(f"The scorer's heads {path} hold numbers that are not finite: {_ANEW}.")
    try:
        heads, prompts = _part(Heads, "head", arrays), _part(Prompts, "prompt", arrays)
        return Learned(metadata["backbone"], arrays["fixed"], heads, prompts, metadata["source"])
    except (KeyError, ValueError) as error:
        raise ConfigurationError(f"The scorer's heads {path} are incomplete ({error}): {_ANEW}.") from error


def _bound() -> dict[str, str]:
    """What must be equal in the file and in this scorer."""
    return {
        "format": "1",
        "measures": MEASURES_VERSION,
        "features": json.dumps(FEATURES),
        "levels": json.dumps(LEVELS),
    }


def _part(kind: type[Any], prefix: str, arrays: Mapping[str, Any]) -> Any:
    """The part of a kind with its arrays in double precision; None where the file has none."""
    if not any(name.startswith(f"{prefix}.") for name in arrays):
        return None
    fields = {name: arrays[f"{prefix}.{name}"].astype(np.float64) for name in kind.__dataclass_fields__}
    knots, eight = fields["knots"], (len(NAMES),)
    if knots.shape != (len(LEVELS), *eight) or (np.diff(knots, axis=0) <= 0).any():
        raise ValueError(f"the knots of {prefix} do not increase")
    if fields["weight"].shape != eight or fields["agreement"].shape != eight:
        raise ValueError(f"{prefix} is not of {len(NAMES)} dimensions")
    return kind(**fields)
