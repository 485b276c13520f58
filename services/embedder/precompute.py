"""Pre-computes an advisor's reference photographs into a release:

    python -m services.embedder.precompute --advisor-dir DIR --advisor-id ID

Photographs are known by the sha256 of their bytes, so only new ones meet the encoder; a run that was interrupted goes
on where it was. The other advisors of the current release stay in the new one. Exit code 0 when a release is served,
2 with one sentence when it cannot be, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Nothing else is imported before Ctrl-C can be answered: loading the libraries takes a moment.
if TYPE_CHECKING:
    from services.embedder.encoder import Encoder
    from services.embedder.settings import EmbedderSettings


def run(
    arguments: Sequence[str] | None = None, *, make_encoder: Callable[[EmbedderSettings], Encoder] | None = None
) -> int:
    """Returns the exit code of the command; see the module."""
    try:
        return _run(_parser().parse_args(arguments), make_encoder)
    except KeyboardInterrupt:
        sentence = "Interrupted; what was finished is kept, and the same command goes on from there."
        print(f"mondrian: {sentence}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.embedder.precompute",
        description="Pre-computes the embeddings of an advisor's reference photographs into a release.",
    )
    parser.add_argument("--advisor-dir", type=Path, required=True, help="the folder with references/ in it")
    parser.add_argument("--advisor-id", help="the advisor's id; by default that of advisor.yaml, or the folder's name")
    parser.add_argument("--data-dir", type=Path, help="the folder of the releases (MONDRIAN_DATA_DIR)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def _run(options: argparse.Namespace, make_encoder: Callable[[EmbedderSettings], Encoder] | None) -> int:
    from services.core.advisors import load_advisor
    from services.core.errors import ConfigurationError
    from services.core.progress import progress
    from services.core.releases import ReleaseStore
    from services.core.settings import available_cpus
    from services.embedder.precomputation import precompute, sentences
    from services.embedder.settings import EmbedderSettings

    try:
        settings = EmbedderSettings.load(**({"data_dir": options.data_dir} if options.data_dir else {}))
        folder = load_advisor(options.advisor_dir, options.advisor_id)
        outcome = precompute(
            folder,
            (make_encoder or _clip)(settings),
            ReleaseStore(settings.releases_root),
            limits=settings.image_limits,
            batch=settings.max_batch,
            threads=settings.decode_threads or available_cpus(),
            keep=settings.keep_releases,
            report=lambda title, total: progress(title, total, quiet=options.quiet),
        )
    except ConfigurationError as error:
        print(f"mondrian: {error}", file=sys.stderr)
        return 2
    for sentence in sentences(folder.id, outcome):
        print(sentence)
    return 0


def _clip(settings: EmbedderSettings) -> Encoder:
    from services.embedder.clip import load_encoder

    return load_encoder(settings)


if __name__ == "__main__":
    sys.exit(run())
