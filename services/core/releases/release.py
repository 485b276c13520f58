"""A verified release, and what a list of releases shows of one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.core.errors import ReleaseDamaged
from services.core.releases.manifest import LOCK, Manifest


def mend(root: Path) -> str:
    """Returns what mends a damaged store at `root`, whose folder is named like its service: the end of a sentence."""
    return (
        f"pre-compute an advisor again, which keeps what is intact, or roll back with `mondrian releases rollback "
        f"{root.name}`"
    )


class Lease:
    """A shared lock on a release, given back when the last object that holds it is gone."""

    def __init__(self, path: Path) -> None:
        """Takes the lock; raises BlockingIOError while the release is being collected."""
        self._descriptor = -1
        try:
            self._descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise
        except OSError:
            # A copy made by hand may lack the lock file, and a file system may lack locks: the release is read all the
            # same.
            self.close()

    def close(self) -> None:
        """Gives it back now; nothing happens the second time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True, eq=False)
class Release:
    """A verified release. It is not collected while this object lives."""

    id: str
    """64 hex characters: the sha256 of the manifest."""
    path: Path
    """The folder. Read it, never write to it."""
    manifest: Manifest
    _lease: Lease = field(repr=False)

    def file(self, name: str) -> Path:
        """Returns the path of a file whose bytes were verified.

        Raises:
            ReleaseDamaged: the release has no such file.
        """
        if name not in self.manifest.files:
            raise ReleaseDamaged(
                f"Release {self.id[:12]} in {self.path.parent} has no {name}; {mend(self.path.parent.parent)}."
            )
        return self.path / name

    def close(self) -> None:
        """Lets the release be collected before this object is gone."""
        self._lease.close()


@dataclass(frozen=True)
class ReleaseInfo:
    """One line of a list of releases."""

    id: str
    """64 hex characters."""
    created: str
    """ISO 8601, UTC; empty where the manifest cannot be read."""
    space_id: str
    """As in the manifest; empty where it cannot be read."""
    counts: Mapping[str, int]
    """As in the manifest; empty where it cannot be read."""
    size_bytes: int
    """The sizes of all files together."""
    current: bool
    """Whether this is the release that is served."""
    damage: str
    """One sentence when the manifest is damaged, else empty. `ReleaseStore.verify` looks at the files too."""
