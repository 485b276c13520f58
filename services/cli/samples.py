"""The sample advisors, and whether what was pre-computed of them still fits the models and the code."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services.cli.holdings import STORED
from services.cli.roster import EMBEDDER, model_folder
from services.core.errors import ConfigurationError
from services.core.settings import MINI_DIR, CommonSettings

SAMPLES: Final = MINI_DIR / "advisors"
"""The sample advisors' folders."""
SERVICES_DIR: Final = Path(__file__).resolve().parents[1]
NOTE: Final = "samples.sha256"
"""The file in the data folder that says of what the samples were made."""
SPACE_MAKERS: Final = tuple(
    f"MONDRIAN_{service}{name}" for service in ("", "EMBEDDER_", "SCORER_") for name in ("ENGINE", "DTYPE")
)
"""Settings of the services that change the embeddings' space although the weights are the same."""


def sample_folders() -> list[Path]:
    """Returns the sample advisors' folders by name.

    Raises:
        ConfigurationError: there are none.
    """
    folders = sorted(path.parent for path in SAMPLES.glob("*/advisor.yaml"))
    if not folders:
        raise ConfigurationError(f"There are no sample advisors in {SAMPLES}; draw them with `make mini`.")
    return folders


def is_sample(advisor: str) -> bool:
    """Returns whether an advisor is one of the samples."""
    return (SAMPLES / advisor / "advisor.yaml").is_file()


def fingerprint(settings: CommonSettings) -> str:
    """Returns the sha256 of everything that the samples' releases follow from: settings, photographs, weights, code."""
    digest = hashlib.sha256()
    for name in SPACE_MAKERS:
        digest.update(f"{name}={os.environ.get(name, '')}\n".encode())
    for path in _sources(settings):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def remember(settings: CommonSettings) -> None:
    """Notes that the samples have been pre-computed from what is there now."""
    (settings.data_dir / NOTE).write_text(f"{fingerprint(settings)}\n", encoding="ascii")


def outdated(settings: CommonSettings) -> bool:
    """Returns whether the samples were pre-computed, and since then something they follow from has changed."""
    try:
        noted = (settings.data_dir / NOTE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return False
    return noted != fingerprint(settings)


def _sources(settings: CommonSettings) -> Iterator[Path]:
    folder = model_folder(EMBEDDER, settings)
    assert folder is not None
    for root, pattern in (
        (SAMPLES, "**/*"),
        (folder, "*"),
        *((SERVICES_DIR / service.name, "**/*.py") for service in STORED),
        *((SERVICES_DIR / service.name, "**/*.json") for service in STORED),
    ):
        yield from sorted(path for path in root.glob(pattern) if path.is_file())
