"""The right to write to a folder, which one process at a time has, and what its disk can do to whoever has it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from services.core.errors import ConfigurationError, WriterBusy


@contextlib.contextmanager
def sole_writer(lock: Path, folder: Path, work: str) -> Iterator[None]:
    """Holds the right to write to `folder`, until the end or that of the process; faults of its disk become sentences.

    `lock` is the file that stands for the right, and stays; `work` names in a word or two what the holder does.

    Raises:
        WriterBusy: another process has it.
        ConfigurationError: the folder cannot be written to, or the disk is full.
    """
    with _sentences(folder):
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise WriterBusy(
                    f"Another {work} (process {holder}) is writing to {folder}; run this again when it is done."
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _sentences(root: Path) -> Iterator[None]:
    """Turns the faults of a disk into sentences for the operator."""
    try:
        yield
    except OSError as error:
        place = Path(os.fsdecode(error.filename)) if error.filename is not None else None
        # Where the root's own folder cannot be made, the error names a folder above it.
        here = place is not None and (place.is_relative_to(root) or root.is_relative_to(place))
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ConfigurationError(
                f"The disk that holds {root} is full; free some space and run the same command again: nothing is lost."
            ) from error
        if here or error.errno in (errno.EIO, errno.EROFS):
            raise ConfigurationError(
                f"{root} cannot be written to ({error.strerror}); choose another folder."
            ) from error
        raise
