"""Notices when files change, by what the file system says of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

Stamp = tuple[int, int, int]


class Watched:
    """A set of files, looked at when asked; a look costs a stat each. Links are followed, so a swapped mount counts."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._stamps = self._look()

    def changed(self) -> bool:
        """Returns whether a file was written, replaced, removed or made since the last look."""
        stamps = self._look()
        changed = stamps != self._stamps
        self._stamps = stamps
        return changed

    def _look(self) -> list[Stamp | None]:
        return [stamp(path) for path in self._paths]


def stamp(path: Path) -> Stamp | None:
    """Returns what changes when a file does: its time of writing (ns), size (bytes) and inode; None without a file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
