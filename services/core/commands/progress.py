"""Progress of a long command on standard error: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

PLAIN_S: Final = 10.0
"""Seconds between two lines where there is no terminal: a log shows that work goes on, and is not filled by it."""


class Progress(Protocol):
    """What a long command tells while it works."""

    def advance(self, count: int = 1) -> None:
        """Moves on by `count` items, 0 and more."""

    def say(self, sentence: str) -> None:
        """Prints a sentence above the bar."""


class _Quiet:
    def advance(self, count: int = 1) -> None:
        """Prints nothing."""

    def say(self, sentence: str) -> None:
        """Prints nothing."""


class _Bar:
    def __init__(self, bar: RichProgress, title: str, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task(escape(title), total=total)

    def advance(self, count: int = 1) -> None:
        self._bar.advance(self._task, count)

    def say(self, sentence: str) -> None:
        self._bar.console.print(sentence, markup=False, highlight=False, emoji=False, soft_wrap=True)


class _Lines:
    def __init__(self, stream: TextIO, title: str, total: int, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._title = title
        self._total = total
        self._done = 0
        self._clock = clock
        self._started = self._said = clock()

    def advance(self, count: int = 1) -> None:
        self._done += count
        now = self._clock()
        if count and (self._done >= self._total or now - self._said >= PLAIN_S):
            self._said = now
            self.say(f"{self._title}: {self._done} of {self._total} ({now - self._started:.1f} s)")

    def say(self, sentence: str) -> None:
        print(sentence, file=self._stream, flush=True)


@contextmanager
def progress(
    title: str,
    total: int,
    *,
    quiet: bool = False,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Yields the progress of `total` items (0 and more) under a title of a few words.

    Writes to `stream`, standard error unless given: a bar with the time that is left where it is a terminal, a line
    every ten seconds of `clock` and at the end where it is not, nothing at all when `quiet`.
    """
    stream = sys.stderr if stream is None else stream
    if quiet:
        yield _Quiet()
    elif stream.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=Console(file=stream)) as bar:
            yield _Bar(bar, title, total)
    else:
        yield _Lines(stream, title, total, clock)
