"""Pre-computes an advisor's reference photographs into a release:

    python -m services.embedder.precompute --advisor-dir DIR --advisor-id ID

Photographs are known by the sha256 of their bytes, so only new ones meet the encoder; a run that was interrupted goes
on where it was. The other advisors of the current release stay in the new one. Exit code 0 when a release is served,
2 with one sentence when it cannot be, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.core.advisors import AdvisorFolder, load_advisor
from services.core.errors import ConfigurationError
from services.core.images import ImageLimits
from services.core.progress import Progress, progress
from services.core.releases import Release, ReleaseStore
from services.core.settings import available_cpus
from services.embedder.catalogue import FILE_NAME, Catalogue
from services.embedder.encoder import Encoder
from services.embedder.gathering import Skipped, Source, gather
from services.embedder.index import IndexRecord
from services.embedder.publishing import publish
from services.embedder.settings import EmbedderSettings
from services.embedder.work import Work


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    release: Release
    """The release that is current now."""
    references: int
    """The advisor's references in it."""
    computed: int
    """How many of them met the encoder in this run."""
    skipped: tuple[Skipped, ...]
    """Files that were left out, by name."""
    index: IndexRecord
    """How the advisor's references are searched."""
    left_behind: tuple[str, ...] = ()
    """Advisors of the release before that belong to another space and must be pre-computed again."""


def precompute(
    folder: AdvisorFolder,
    encoder: Encoder,
    store: ReleaseStore,
    *,
    limits: ImageLimits,
    batch: int = 32,
    threads: int = 1,
    keep: int = 5,
    report: Callable[[str, int], contextlib.AbstractContextManager[Progress]],
) -> Outcome:
    """Publishes a release with the advisor's photographs and returns what was done.

    `batch` photographs meet the encoder at once, `threads` threads decode, `keep` older releases are left to roll
    back to. `report` makes the progress of a title and a number of photographs.

    Raises:
        WriterBusy: another precompute runs.
        ReleaseDamaged: the current release, whose other advisors would have to be kept, is damaged.
        ConfigurationError: no photograph of the folder can be used, or the store cannot be written to.
    """
    with store.writer() as writer:
        before = store.current()
        same_space = before is not None and before.manifest.space_id == encoder.space_id
        left_behind = tuple(sorted(before.manifest.counts)) if before and not same_space else ()
        catalogue = Catalogue(before.file(FILE_NAME), encoder.dimensions) if before and same_space else None
        work = Work(store.work, encoder.space_id, encoder.dimensions)
        with contextlib.ExitStack() as stack:
            stack.callback(work.close)
            if catalogue is not None:
                stack.callback(catalogue.close)
            source = Source(work, catalogue)
            with report(f"Embedding {folder.id}", len(folder.photographs)) as shown:
                findings = gather(folder, encoder, source, work, limits, batch, threads, shown)
            if not findings.entries:
                raise ConfigurationError(
                    f"None of the {len(folder.photographs)} photographs of {folder.id} can be used; the first: "
                    f"{findings.skipped[0].file_name}: {findings.skipped[0].sentence}"
                )
            kept = before if same_space else None
            release, record = publish(writer, folder, encoder, findings, source, kept, catalogue)
            writer.collect(keep)
            work.forget(findings.entries)
        return Outcome(
            release=release,
            references=len(findings.entries),
            computed=findings.computed,
            skipped=tuple(findings.skipped),
            left_behind=tuple(one for one in left_behind if one != folder.id),
            index=record,
        )


def run(
    arguments: Sequence[str] | None = None, *, make_encoder: Callable[[EmbedderSettings], Encoder] | None = None
) -> int:
    """Returns the exit code of the command; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m services.embedder.precompute",
        description="Pre-computes the embeddings of an advisor's reference photographs into a release.",
    )
    parser.add_argument("--advisor-dir", type=Path, required=True, help="the folder with references/ in it")
    parser.add_argument("--advisor-id", help="the advisor's id; by default that of advisor.yaml, or the folder's name")
    parser.add_argument("--data-dir", type=Path, help="the folder of the releases (MONDRIAN_DATA_DIR)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
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
    except KeyboardInterrupt:
        print(
            "mondrian: Interrupted; what was finished is kept, and the same command goes on from there.",
            file=sys.stderr,
        )
        return 130
    for sentence in sentences(folder.id, outcome):
        print(sentence)
    return 0


def sentences(advisor: str, outcome: Outcome) -> list[str]:
    """Returns what a run did, for people."""
    index = outcome.index
    searched = (
        "exactly"
        if index is None or index.method == "exact"
        else f"by HNSW with recall {min(index.recall.values()):.4f}"
    )
    lines = [
        f"{advisor}: {outcome.references} references, {outcome.computed} of them new, searched {searched}; "
        f"release {outcome.release.id[:12]}."
    ]
    if outcome.skipped:
        lines.append(f"{len(outcome.skipped)} files were skipped:")
        lines.extend(f"  {one.file_name} ({one.reason}): {one.sentence}" for one in outcome.skipped)
    if outcome.left_behind:
        lines.append(
            f"The encoder has changed: {', '.join(outcome.left_behind)} must be pre-computed again to be served."
        )
    return lines


def _clip(settings: EmbedderSettings) -> Encoder:
    from services.embedder.clip import load_encoder

    return load_encoder(settings)


if __name__ == "__main__":
    sys.exit(run())
