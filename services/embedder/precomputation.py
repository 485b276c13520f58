"""One run of precompute: an advisor's folder becomes part of the current release."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from services.core.advisors import AdvisorFolder
from services.core.commands.precompute import Skipped, remarks
from services.core.commands.progress import Progress
from services.core.errors import ConfigurationError
from services.core.images.reading import ImageLimits
from services.core.releases import Release, ReleaseStore, current_or_remains, replaced, writing
from services.embedder.encoder import Encoder
from services.embedder.gathering import Source, gather
from services.embedder.indexing import Asked, IndexRecord
from services.embedder.publishing import publish
from services.embedder.salvage import Kept, everything, intact
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
    mended: tuple[str, ...] = ()
    """What became of a damaged release before, in sentences; empty where there was none."""


def precompute(
    folder: AdvisorFolder,
    encoder: Encoder,
    store: ReleaseStore,
    *,
    limits: ImageLimits,
    batch: int = 32,
    threads: int = 1,
    keep: int = 5,
    index: Asked = "auto",
    report: Callable[[str, int], contextlib.AbstractContextManager[Progress]],
) -> Outcome:
    """Publishes a release with the advisor's photographs and returns what was done.

    `batch` photographs meet the encoder at once, `threads` threads decode, `keep` older releases are left to roll back
    to, `index` is how references are to be searched. `report` starts the progress display, given a title and the number
    of photographs.

    Raises:
        WriterBusy: another precompute runs.
        ConfigurationError: no photograph of the folder can be used, or the store cannot be written to.
    """
    with writing(store) as writer:
        before, remains = current_or_remains(store)
        same_space = before is not None and before.manifest.space_id == encoder.space_id
        left_behind = tuple(sorted(before.manifest.counts)) if before and not same_space else ()
        work = Work(store.work, encoder.space_id, encoder.dimensions)
        with contextlib.ExitStack() as stack:
            stack.callback(work.close)
            kept = everything(before, encoder) if before and same_space else Kept()
            if kept.catalogue is not None:
                stack.callback(kept.catalogue.close)
            if remains is not None:
                kept = intact(remains, encoder, work)
            source = Source(work, kept.catalogue)
            with report(f"Embedding {folder.id}", len(folder.photographs)) as shown:
                findings = gather(folder, encoder, source, work, limits, batch, threads, shown)
            if not findings.entries:
                raise ConfigurationError(
                    f"None of the {len(folder.photographs)} photographs of {folder.id} can be used; the first: "
                    f"{findings.skipped[0].file_name}: {findings.skipped[0].sentence}"
                )
            release, record = publish(writer, folder, encoder, findings, source, kept, index)
            mended = replaced(writer, remains, folder.id, kept.origin) if remains else ()
            writer.collect(keep)
            # What was salvaged for the others is in the release as well.
            work.forget({*findings.entries, *(one.id for _, entries in kept.advisors.values() for one in entries)})
        return Outcome(
            release=release,
            references=len(findings.entries),
            computed=findings.computed,
            skipped=tuple(findings.skipped),
            left_behind=tuple(one for one in left_behind if one != folder.id),
            index=record,
            mended=tuple(mended),
        )


def sentences(advisor: str, outcome: Outcome, *, brief: bool = False) -> list[str]:
    """Returns what a run did, for people; `brief` leaves it to the caller to name the files that were skipped."""
    recall = min(outcome.index.recall.values(), default=1.0)
    searched = f"by HNSW with recall {recall:.4f}" if outcome.index.method == "hnsw" else "exactly"
    return [
        f"{advisor}: {outcome.references} references, {outcome.computed} of them new, searched {searched}; "
        f"release {outcome.release.id[:12]}.",
        *outcome.mended,
        *remarks(() if brief else outcome.skipped, outcome.left_behind, "encoder"),
    ]
