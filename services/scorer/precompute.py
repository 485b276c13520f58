"""Pre-computes the scores of an advisor's reference photographs into a release:

    python -m services.scorer.precompute --advisor-dir DIR --advisor-id ID

Photographs are known by the sha256 of their bytes, so only new ones are measured; a run that was interrupted goes on
where it was. The other advisors of the current release stay in the new one. Exit code 0 when a release is served,
2 with one sentence when it cannot be, 130 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.core.commands.precompute import load_named, run_command

# Nothing else is imported before Ctrl-C can be answered: loading the libraries takes a moment.
if TYPE_CHECKING:
    import argparse


def run(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code of the command; see the module."""
    description = "Pre-computes the scores of an advisor's reference photographs into a release."
    return run_command("services.scorer.precompute", description, _run, arguments)


def _run(options: argparse.Namespace) -> list[str]:
    from services.core.commands.progress import progress
    from services.core.images.reading import ImageLimits
    from services.core.releases import ReleaseStore
    from services.scorer.loading import load_scorer
    from services.scorer.precomputation import precompute, sentences
    from services.scorer.settings import ScorerSettings

    settings = ScorerSettings.load(**({"data_dir": options.data_dir} if options.data_dir else {}))
    folder = load_named(options)
    outcome = precompute(
        folder,
        load_scorer(settings),
        ReleaseStore(settings.releases_root),
        limits=ImageLimits.of(settings),
        keep=settings.keep_releases,
        report=lambda title, total: progress(title, total, quiet=options.quiet),
    )
    return sentences(outcome, brief=options.brief)


if __name__ == "__main__":
    sys.exit(run())
