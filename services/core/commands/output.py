"""Standard output and error that may be closed, may lose their reader, or lack characters."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


def any_streams() -> None:
    """Makes writing to stdout and stderr safe: to closed ones it is lost, a character that stdout lacks becomes "?"."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A stream opened as a file that is a pipe by now cannot be changed, and stays as it was.
        with contextlib.suppress(OSError):
            sys.stdout.reconfigure(errors="replace")


def lose(stream: TextIO) -> None:
    """Redirects a stream whose reader has left to nowhere, so that Python does not complain again at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextlib.contextmanager
def going_on_unread() -> Iterator[None]:
    """Lets a command finish its work although the reader of its output (head, less) has left."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Unread(stream)) for stream in before)
    try:
        yield
    finally:
        # Here and not at the exit, where Python could only complain.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


class _Unread:
    """A stream whose reader may leave: what is written after that is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, or loses, all of the text."""
        with self._until_left():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hands on, or loses, what was written."""
        with self._until_left():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _until_left(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            lose(self._stream)
