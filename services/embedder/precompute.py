"""Pre-computes an advisor's reference photographs into a release:

    python -m services.embedder.precompute --advisor-dir DIR --advisor-id ID

Photographs are known by the sha256 of their bytes, so only new ones meet the encoder; a run that was interrupted goes
on where it was. The other advisors of the current release stay in the new one. Exit code 0 when a release is served,
2 with one sentence when it cannot be, 130 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from services.core.commands.precompute import load_named, run_command

# Nothing else is imported before Ctrl-C can be answered: loading the libraries takes a moment.
if TYPE_CHECKING:
    import argparse

    from services.embedder.encoder import Encoder
    from services.embedder.settings import EmbedderSettings


def run(
    arguments: Sequence[str] | None = None, *, make_encoder: Callable[[EmbedderSettings], Encoder] | None = None
) -> int:
    """Returns the exit code of the command; see the module."""
    description = "Pre-computes the embeddings of an advisor's reference photographs into a release."
    body = functools.partial(_run, make_encoder=make_encoder)
    return run_command("services.embedder.precompute", description, body, arguments)


def _run(options: argparse.Namespace, make_encoder: Callable[[EmbedderSettings], Encoder] | None) -> list[str]:
    from services.core.commands.progress import progress
    from services.core.images.reading import ImageLimits
    from services.core.releases import ReleaseStore
    from services.core.settings import available_cpus
    from services.embedder.loading import load
    from services.embedder.precomputation import precompute, sentences
    from services.embedder.settings import EmbedderSettings

    settings = EmbedderSettings.load(**({"data_dir": options.data_dir} if options.data_dir else {}))
    folder = load_named(options)
    outcome = precompute(
        folder,
        (make_encoder or load)(settings),
        ReleaseStore(settings.releases_root),
        limits=ImageLimits.of(settings),
        batch=settings.max_batch,
        threads=settings.decode_threads or available_cpus(),
        keep=settings.keep_releases,
        index=settings.index,
        report=lambda title, total: progress(title, total, quiet=options.quiet),
    )
    return sentences(folder.id, outcome, brief=options.brief)


if __name__ == "__main__":
    sys.exit(run())
