"""What the releases before give to the next one: everything, or what is provably intact of it.

A release that is sound is read as it is. In a damaged one a row counts by its own checksum: an advisor is kept where
all its rows are intact, and no photograph whose rows are intact meets the encoder again.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from services.core.errors import ConfigurationError, NoRelease
from services.core.releases import Release, Remains
from services.embedder.catalogue import FILE_NAME, Catalogue
from services.embedder.encoder import Encoder
from services.embedder.records import AdvisorRecord, Entry, Photograph
from services.embedder.work import Work

T = TypeVar("T")
_BATCH = 64


@dataclass
class Kept:
    """What of the releases before goes into the next one."""

    advisors: dict[str, tuple[AdvisorRecord, list[Entry]]] = field(default_factory=dict)
    """Advisors with their entries, by id."""
    skipped: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The files that were left out when they were pre-computed, by advisor."""
    origin: dict[str, Release] = field(default_factory=dict)
    """The release that an advisor was taken from."""
    release: Release | None = None
    """The release before, where it is sound: its indexes serve on."""
    catalogue: Catalogue | None = None
    """That release's."""


def everything(release: Release, encoder: Encoder) -> Kept:
    """Returns all of a sound release of the encoder's space; its catalogue is to be closed by the caller."""
    catalogue = Catalogue(release.file(FILE_NAME), encoder.dimensions)
    kept = Kept(release=release, catalogue=catalogue)
    for advisor in catalogue.advisors():
        _keep(kept, advisor, catalogue.entries(advisor.id), release)
    return kept


def intact(remains: Remains, encoder: Encoder, work: Work) -> Kept:
    """Returns the advisors that are intact, each from the best release that has it, and puts all intact photographs of
    the encoder's space into the work.

    Raises:
        ConfigurationError: the work cannot be written.
    """
    kept = Kept()
    for release in remains.releases:
        path = release.path / FILE_NAME
        if release.manifest.space_id != encoder.space_id or not path.is_file():
            continue
        # Not of the manifest's files alone: in this one, what is intact is told row by row.
        sealed = FILE_NAME not in release.manifest.files
        catalogue = _readable(functools.partial(Catalogue, path, encoder.dimensions, sealed=sealed))
        if catalogue is None:
            continue
        with contextlib.closing(catalogue):
            sound: set[str] = set()
            for photographs in _batches(_photographs(catalogue)):
                work.put(photographs)
                sound.update(one.id for one in photographs)
            for advisor in _readable(catalogue.advisors) or []:
                entries = _readable(functools.partial(catalogue.entries, advisor.id))
                if advisor.id not in kept.advisors and entries and all(one.id in sound for one in entries):
                    _keep(kept, advisor, entries, release)
    return kept


def _keep(kept: Kept, advisor: AdvisorRecord, entries: list[Entry], release: Release) -> None:
    kept.advisors[advisor.id] = (advisor, entries)
    kept.skipped[advisor.id] = release.manifest.extra.get("skipped", {}).get(advisor.id, [])
    kept.origin[advisor.id] = release


def _photographs(catalogue: Catalogue) -> Iterator[Photograph]:
    """Yields every photograph that can be read as it was written, each once."""
    for identity in catalogue.reachable_ids():
        found = _readable(functools.partial(catalogue.photograph, identity))
        if found is not None:
            yield found


def _readable(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (NoRelease, ConfigurationError, sqlite3.Error):
        return None


def _batches(photographs: Iterable[Photograph]) -> Iterator[list[Photograph]]:
    batch: list[Photograph] = []
    for one in photographs:
        batch.append(one)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
