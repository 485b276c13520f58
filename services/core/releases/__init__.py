"""Immutable releases of reference data: one writer publishes, any number of readers follow.

A root holds

    releases/<id>/manifest.json   names every other file of the release with its sha256
    releases/<id>/reader.lock     empty; readers hold it shared, so that a release in use is never collected
    current -> releases/<id>      the release that is served; switched by one rename
    writer.lock                   held exclusively by the one writer; it vanishes with its process
    staging/                      what a writer has not finished; emptied by the next writer
    damaged/<id>                  a release that precompute found damaged and built anew; nobody reads it
    work/                         resumable work that belongs to precompute, never read by a server

The id of a release is the sha256 of its manifest, so an id vouches for every byte below it. Files are written to
staging, fsynced, hashed and renamed into place, and `current` is switched last: a crash at any instant leaves either
the old release or the new one being served, whole.
"""

from services.core.releases.manifest import Manifest
from services.core.releases.release import Release, ReleaseInfo
from services.core.releases.remains import Remains, current_or_remains, replaced
from services.core.releases.store import ReleaseStore
from services.core.releases.watcher import ReleaseWatcher
from services.core.releases.writer import Writer, collect, rollback, writing

__all__ = [
    "Manifest",
    "Release",
    "ReleaseInfo",
    "ReleaseStore",
    "ReleaseWatcher",
    "Remains",
    "Writer",
    "collect",
    "current_or_remains",
    "replaced",
    "rollback",
    "writing",
]
