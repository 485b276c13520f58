"""The only one who changes releases: stages, publishes, switches and collects them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from services.core.errors import ConfigurationError, ReleaseDamaged
from services.core.files.sole_writer import sole_writer
from services.core.releases.manifest import LOCK, MANIFEST, Manifest, allowed, digest_of
from services.core.releases.release import Release
from services.core.releases.store import ReleaseStore


@contextlib.contextmanager
def writing(store: ReleaseStore) -> Iterator[Writer]:
    """Yields the one writer of a store; what an interrupted writer left in staging is removed first.

    Raises:
        WriterBusy: another process is writing.
        ConfigurationError: the root cannot be written to, or the disk is full.
    """
    with sole_writer(store.root / "writer.lock", store.root, "precompute"):
        for folder in (store.releases_folder, store.staging, store.work):
            folder.mkdir(parents=True, exist_ok=True)
        _empty(store.staging)
        yield Writer(store)


class Writer:
    """The right to change the releases of one root; made by `writing`."""

    def __init__(self, store: ReleaseStore) -> None:
        self._store = store

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        """Yields an empty folder to write a release's files into; it is removed at the end unless published."""
        # Made by mkdir and not as a private temporary folder: servers of other users read the release.
        folder = self._store.staging / uuid.uuid4().hex
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(
        self,
        staged: Path,
        *,
        space_id: str,
        counts: Mapping[str, int],
        extra: Mapping[str, Any] | None = None,
    ) -> Release:
        """Makes the staged files the current release and returns it.

        When they are the same as those of the current release, nothing changes and that one is returned.

        Raises:
            ReleaseDamaged: a file could not be read back as it was written.
            ValueError: a file's name is not allowed, `extra` is no JSON, or there is no file at all.
        """
        store = self._store
        files: dict[str, str] = {}
        for path in sorted(staged.iterdir()):
            if not allowed(path.name) or path.is_symlink() or not path.is_file():
                raise ValueError(f"a release cannot hold {path.name!r}")
            path.chmod(0o444)
            _fsync(path)
            files[path.name] = digest_of(path)
        if not files:
            raise ValueError("a release needs at least one file")
        manifest = Manifest(space_id, files, dict(counts), self._now(), dict(extra or {}))
        if (unchanged := self._unchanged(manifest)) is not None:
            return unchanged
        content = manifest.to_bytes()
        release_id = hashlib.sha256(content).hexdigest()
        for name, data in ((MANIFEST, content), (LOCK, b"")):
            (staged / name).write_bytes(data)
            _fsync(staged / name)
        _fsync(staged)
        os.rename(staged, store.path_of(release_id))
        _fsync(store.releases_folder)
        return self.activate(release_id)

    def activate(self, release_id: str) -> Release:
        """Verifies a release, makes it the current one and returns it.

        Raises:
            ReleaseDamaged: it is damaged or missing; `current` stays as it is.
        """
        store = self._store
        release = store.open(release_id)
        link = store.staging / uuid.uuid4().hex
        # Relative, so that the root can be mounted anywhere.
        link.symlink_to(Path("releases") / release_id)
        os.replace(link, store.current_link)
        _fsync(store.root)
        return release

    def collect(self, keep: int) -> list[str]:
        """Removes all but the current release and the newest `keep` (0 and more) beside it; returns the ids removed.

        One that a reader holds stays until the next time.
        """
        if keep < 0:
            raise ValueError("keep must be 0 or more")
        store = self._store
        candidates = [info.id for info in store.releases() if not info.current]
        removed = []
        for release_id in candidates[keep:]:
            with contextlib.suppress(BlockingIOError), _exclusive(store.path_of(release_id) / LOCK):
                # Vanishes at once; what a crash leaves of it lies in staging.
                grave = store.staging / uuid.uuid4().hex
                os.rename(store.path_of(release_id), grave)
                shutil.rmtree(grave)
                removed.append(release_id)
        return removed

    def set_aside(self, release_id: str) -> Path | None:
        """Moves a damaged release to where nobody rolls back to it, and returns that place.

        None where it has to stay, because a reader holds it or it is the current one.
        """
        store = self._store
        source, place = store.path_of(release_id), store.damaged / release_id
        if release_id == store.current_id() or not source.is_dir():
            return None
        with contextlib.suppress(BlockingIOError), _exclusive(source / LOCK):
            store.damaged.mkdir(exist_ok=True)
            shutil.rmtree(place, ignore_errors=True)
            os.rename(source, place)
            _fsync(store.releases_folder)
            return place
        return None

    def _now(self) -> str:
        """Returns the time, but one later than every release's: a clock may be set back, and their order must hold."""
        now = datetime.now(UTC)
        for info in self._store.releases():
            with contextlib.suppress(ValueError, TypeError):
                now = max(now, datetime.fromisoformat(info.created) + timedelta(microseconds=1))
        return now.isoformat(timespec="microseconds")

    def _unchanged(self, manifest: Manifest) -> Release | None:
        with contextlib.suppress(ReleaseDamaged):
            current = self._store.current()
            if current is not None:
                was = current.manifest
                same = (was.space_id, was.files, was.counts) == (manifest.space_id, manifest.files, manifest.counts)
                # Through JSON, as the current one's went.
                if same and was.extra == json.loads(json.dumps(manifest.extra)):
                    return current
        return None


def rollback(store: ReleaseStore, release_id: str | None = None) -> Release:
    """Switches `current` to `release_id`, or to the last sound one published before the current one, and returns it.

    Raises:
        ReleaseDamaged: `release_id` is damaged or missing; `current` stays.
        ConfigurationError: there is none before the current one, or none that is sound.
        WriterBusy: another process is writing.
    """
    if not store.releases():
        raise ConfigurationError(f"There is no release in {store.root}; pre-compute an advisor first.")
    with writing(store) as writer:
        if release_id is not None:
            return writer.activate(release_id)
        known = store.releases()
        created = next((info.created for info in known if info.current), "")
        older = [info for info in known if not info.current and (not created or info.created < created)]
        for info in older:
            with contextlib.suppress(ReleaseDamaged):
                return writer.activate(info.id)
    fault = (
        "No release before the current one {} is sound" if older else "There is no release before the current one {}"
    )
    raise ConfigurationError(
        f"{fault.format(f'in {store.root}')}; pre-compute an advisor again to change what is served."
    )


def collect(store: ReleaseStore, keep: int) -> list[str]:
    """Returns the ids of the releases removed: see `Writer.collect`, of which this is the whole of a writer's work.

    Raises:
        WriterBusy: another process is writing.
    """
    with writing(store) as writer:
        return writer.collect(keep)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    """Holds a release's lock alone; raises BlockingIOError at once while a reader holds it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for leftover in folder.iterdir():
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
