"""The releases under one root, as those who read them see them; `writing` changes them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

from services.core.errors import ConfigurationError, ReleaseDamaged
from services.core.releases.manifest import MANIFEST, Manifest, damage_of
from services.core.releases.release import Lease, Release, ReleaseInfo, mend

_ID = re.compile(r"[0-9a-f]{64}")


class ReleaseStore:
    """The releases under one root. Nothing here needs permission to write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        """Where precompute keeps what an interrupted run has finished."""
        self.releases_folder = root / "releases"
        self.staging = root / "staging"
        self.damaged = root / "damaged"
        self.current_link = root / "current"

    def path_of(self, release_id: str) -> Path:
        """Returns the folder of a release, whether it exists or not.

        Raises:
            ReleaseDamaged: this is no id, so no path is made of it.
        """
        if not _ID.fullmatch(release_id):
            raise ReleaseDamaged(f"{release_id[:80]!r} in {self.root} is not the id of a release; {mend(self.root)}.")
        return self.releases_folder / release_id

    def current_id(self) -> str | None:
        """Returns the id that `current` names, unverified; None before the first release."""
        try:
            return Path(os.readlink(self.current_link)).name
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise ReleaseDamaged(
                    f"{self.current_link} cannot be read ({error.strerror}); check MONDRIAN_DATA_DIR."
                ) from error
            raise ReleaseDamaged(
                f"{self.current_link} is not a symbolic link to a release; {mend(self.root)}."
            ) from error

    def current(self) -> Release | None:
        """Returns the release that is served, every byte verified; None before the first one.

        Raises:
            ReleaseDamaged: a file is missing or differs from its sha256.
        """
        while (release_id := self.current_id()) is not None:
            try:
                return self.open(release_id)
            except ReleaseDamaged:
                # A writer may have switched and collected it between the two steps: then there is another one.
                if self.current_id() == release_id:
                    raise
        return None

    def open(self, release_id: str, *, whole: bool = True) -> Release:
        """Returns a release, every byte verified; without `whole`, only the manifest.

        Raises:
            ReleaseDamaged: there is none of this id, or a file is missing or differs from its sha256.
        """
        path = self.path_of(release_id)
        try:
            # Taken before anything is read, so that what was verified is there until the reader is done.
            lease = Lease(path)
        except BlockingIOError as error:
            raise ReleaseDamaged(f"Release {release_id[:12]} in {self.root} is being removed; try again.") from error
        manifest = self._manifest(release_id)
        for name, digest in manifest.files.items() if whole else ():
            if problem := damage_of(path / name, digest):
                raise self._damaged(release_id, problem)
        return Release(release_id, path, manifest, lease)

    def releases(self) -> list[ReleaseInfo]:
        """Returns every release, the newest first; those whose manifest is damaged last. Files are not read.

        Raises:
            ReleaseDamaged: the folder of the releases cannot be read.
        """
        current = self._current_or_none()
        found = []
        try:
            paths = list(self.releases_folder.iterdir())
        except FileNotFoundError:
            paths = []
        except OSError as error:
            raise self._unreadable(self.releases_folder, error) from error
        for path in paths:
            if not _ID.fullmatch(path.name):
                continue
            size = 0
            with contextlib.suppress(OSError):  # it may be collected meanwhile, and is none then
                size = sum(entry.stat().st_size for entry in path.iterdir())
            try:
                manifest, damage = self._manifest(path.name), ""
            except ReleaseDamaged as error:
                if not path.exists():
                    continue
                manifest, damage = Manifest("", {}, {}, ""), str(error)
            found.append(
                ReleaseInfo(
                    path.name, manifest.created, manifest.space_id, manifest.counts, size, path.name == current, damage
                )
            )
        return sorted(found, key=lambda info: (info.created, info.id), reverse=True)

    def verify(self, release_id: str) -> list[str]:
        """Returns a sentence for every damaged or missing file of a release; an empty list when it is sound."""
        try:
            manifest = self._manifest(release_id)
        except ReleaseDamaged as error:
            return [str(error)]
        path = self.path_of(release_id)
        problems = (damage_of(path / name, digest) for name, digest in manifest.files.items())
        return [str(self._damaged(release_id, problem)) for problem in problems if problem]

    def find(self, prefix: str) -> str:
        """Returns the id that begins with `prefix`.

        Raises:
            ConfigurationError: none does, or more than one.
        """
        ids = [info.id for info in self.releases() if info.id.startswith(prefix)]
        if len(ids) != 1:
            fault = "No release" if not ids else "More than one release"
            raise ConfigurationError(f"{fault} in {self.root} begins with {prefix!r}; see `mondrian releases list`.")
        return ids[0]

    def signature(self) -> tuple[object, ...] | None:
        """Returns a value that changes when `current` or a file below it does; None before the first release.

        It costs a few stat calls and reads no file. Where `current` cannot be read, the value is the reason.
        """
        try:
            release_id = self.current_id()
        except ReleaseDamaged as error:
            return (str(error),)
        if release_id is None:
            return None
        entries: list[tuple[object, ...]] = []
        with contextlib.suppress(OSError, ReleaseDamaged):
            for entry in sorted(self.path_of(release_id).iterdir()):
                status = entry.stat()
                entries.append((entry.name, status.st_ino, status.st_size, status.st_mtime_ns))
        return (release_id, *entries)

    def _current_or_none(self) -> str | None:
        try:
            return self.current_id()
        except ReleaseDamaged:
            return None

    def _unreadable(self, path: Path, error: OSError) -> ReleaseDamaged:
        return ReleaseDamaged(f"{path} cannot be read ({error.strerror}); check MONDRIAN_DATA_DIR and its permissions.")

    def _damaged(self, release_id: str, problem: str) -> ReleaseDamaged:
        return ReleaseDamaged(f"Release {release_id[:12]} in {self.root} is damaged: {problem}; {mend(self.root)}.")

    def _manifest(self, release_id: str) -> Manifest:
        path = self.path_of(release_id)
        try:
            if not path.is_dir():
                raise ReleaseDamaged(f"Release {release_id[:12]} is not in {self.root}; {mend(self.root)}.")
        except OSError as error:
            raise self._unreadable(path, error) from error
        if problem := damage_of(path / MANIFEST, release_id):
            raise self._damaged(release_id, problem)
        try:
            return Manifest.from_bytes((path / MANIFEST).read_bytes())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(release_id, f"{MANIFEST} cannot be read ({error})") from error
