"""The second half of precompute: catalogue and indexes of all advisors become a release."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from services.core.advisors import AdvisorFolder
from services.core.commands.gathering import Findings
from services.core.errors import ConfigurationError
from services.core.releases import Release, Writer
from services.core.settings import available_cpus
from services.embedder.catalogue import FILE_NAME, Catalogue
from services.embedder.catalogue_writer import CatalogueWriter
from services.embedder.encoder import Encoder, encoder_id
from services.embedder.indexing import Asked, IndexRecord, build_index
from services.embedder.records import AdvisorRecord, Entry
from services.embedder.references import index_file
from services.embedder.salvage import Kept
from services.embedder.source import Source
from services.embedder.work import storage_error

# Above this many references the graph is built by all cores; below, by one, so that equal input gives equal bytes.
_PARALLEL_BUILD = 10_000


def publish(
    writer: Writer,
    folder: AdvisorFolder,
    encoder: Encoder,
    findings: Findings,
    source: Source,
    kept: Kept,
    asked: Asked,
) -> tuple[Release, IndexRecord]:
    """Publishes the advisor as it was found beside the other advisors that are kept.

    Returns the release and how the advisor is searched. An index is rebuilt only if its vectors have changed, another
    kind is asked for, or its format has another version.
    """
    own = _advisor(folder), [Entry(one, findings.files[one].about) for one in sorted(findings.files)]
    advisors = {**kept.advisors, folder.id: own}
    records: dict[str, IndexRecord] = {}
    skipped = {**kept.skipped, folder.id: [vars(one) for one in findings.skipped]}
    described = kept.release.manifest.extra.get("indexes", {}) if kept.release else {}
    for advisor_id in kept.advisors:
        with contextlib.suppress(ConfigurationError):
            records[advisor_id] = IndexRecord.from_json(described.get(advisor_id, {}))
    with writer.stage() as staged:
        _write_catalogue(staged / FILE_NAME, advisors, source)
        for advisor_id, (_, entries) in advisors.items():
            file_name = index_file(advisor_id)
            known = records.get(advisor_id)
            if known and known.asked == asked and _same_vectors(kept.catalogue, advisor_id, entries, source):
                if kept.release is not None and known.method == "hnsw":
                    shutil.copyfile(kept.release.file(file_name), staged / file_name)
                continue
            matrix = np.stack([source.require(one.id).embedding for one in entries])
            threads = available_cpus() if len(entries) > _PARALLEL_BUILD else 1
            records[advisor_id] = build_index(matrix, staged / file_name, threads=threads, asked=asked)
        release = writer.publish(
            staged,
            space_id=encoder.space_id,
            counts={one: len(entries) for one, (_, entries) in advisors.items()},
            extra={
                "encoder": encoder_id(encoder),
                "dimensions": encoder.dimensions,
                "indexes": {one: records[one].to_json() for one in advisors},
                "skipped": skipped,
            },
        )
    return release, records[folder.id]


def _same_vectors(catalogue: Catalogue | None, advisor: str, entries: Sequence[Entry], source: Source) -> bool:
    """Returns whether the index of the release before fits these entries: the same photographs, equally embedded."""
    if catalogue is None or [one.id for one in catalogue.entries(advisor)] != [one.id for one in entries]:
        return False
    stored = catalogue.matrix(advisor)
    return all(
        np.array_equal(vector, source.require(one.id).embedding) for vector, one in zip(stored, entries, strict=True)
    )


def _write_catalogue(path: Path, advisors: dict[str, tuple[AdvisorRecord, list[Entry]]], source: Source) -> None:
    ids = sorted({one.id for _, entries in advisors.values() for one in entries})
    try:
        with contextlib.closing(CatalogueWriter(path)) as writer:
            writer.add_photographs(source.require(one) for one in ids)
            for advisor_id in sorted(advisors):
                writer.add_advisor(*advisors[advisor_id])
            writer.complete()
    except sqlite3.Error as error:
        raise storage_error(error, path) from error


def _advisor(folder: AdvisorFolder) -> AdvisorRecord:
    return AdvisorRecord(
        folder.id, folder.name, folder.bio, folder.years, folder.focus_areas, folder.voice, folder.link
    )
