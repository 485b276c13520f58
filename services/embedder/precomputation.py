"""One run of precompute: an advisor's folder becomes part of the current release."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.core.advisors import AdvisorFolder
from services.core.commands.gathering import gather
from services.core.commands.precompute import Skipped, remarks
from services.core.commands.progress import Progress
from services.core.images import reading
from services.core.images.reading import ImageLimits
from services.core.releases import Release, ReleaseStore, current_or_remains, replaced, writing
from services.embedder.encoder import Encoder, Pixels
from services.embedder.indexing import Asked, IndexRecord
from services.embedder.publishing import publish
from services.embedder.records import Photograph
from services.embedder.salvage import Kept, everything, intact
from services.embedder.source import Source
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
                findings = gather(
                    folder,
                    lambda identity: source.get(identity) is not None,
                    lambda content: _prepare(content, encoder, limits),
                    lambda prepared: work.put(_embedded(prepared, encoder)),
                    limits=limits,
                    batch=batch,
                    threads=threads,
                    shown=shown,
                )
            release, record = publish(writer, folder, encoder, findings, source, kept, index)
            mended = replaced(writer, remains, folder.id, kept.origin) if remains else ()
            writer.collect(keep)
            # What was salvaged for the others is in the release as well.
            work.forget({*findings.files, *(one.id for _, entries in kept.advisors.values() for one in entries)})
        return Outcome(
            release=release,
            references=len(findings.files),
            computed=findings.computed,
            skipped=tuple(findings.skipped),
            left_behind=tuple(one for one in left_behind if one != folder.id),
            index=record,
            mended=tuple(mended),
        )


@dataclass(frozen=True)
class _Prepared:
    pixels: Pixels
    size: tuple[int, int]
    thumbnail: bytes


def _prepare(content: bytes, encoder: Encoder, limits: ImageLimits) -> _Prepared:
    size = reading.upright_size(content, limits=limits)
    photograph = encoder.photograph(content, limits)
    return _Prepared(encoder.pixels(photograph), size, reading.thumbnail_jpeg(photograph))


def _embedded(prepared: Mapping[str, _Prepared], encoder: Encoder) -> list[Photograph]:
    vectors = encoder.forward_images([one.pixels for one in prepared.values()])
    return [
        Photograph(identity, *one.size, vector, one.thumbnail)
        for (identity, one), vector in zip(prepared.items(), vectors, strict=True)
    ]


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
