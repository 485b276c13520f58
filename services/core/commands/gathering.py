"""The first half of precompute: every photograph of an advisor is computed, or known, or skipped with a reason."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from services.core.advisors import AdvisorFolder, ReferenceFile
from services.core.commands.precompute import Skipped
from services.core.commands.progress import Progress
from services.core.errors import ConfigurationError, InvalidImage
from services.core.images.reading import ImageLimits, read_file, sha256

P = TypeVar("P")
T = TypeVar("T")


@dataclass
class Findings:
    """The references found, and what was left out."""

    files: dict[str, ReferenceFile] = field(default_factory=dict)
    """By the sha256 of their bytes."""
    skipped: list[Skipped] = field(default_factory=list)
    """In the order of the files."""
    computed: int = 0
    """How many had to be computed, 0 and more."""


def gather(
    folder: AdvisorFolder,
    known: Callable[[str], bool],
    prepare: Callable[[bytes], P],
    compute: Callable[[Mapping[str, P]], None],
    *,
    limits: ImageLimits,
    batch: int,
    threads: int = 1,
    shown: Progress,
) -> Findings:
    """Has every usable photograph computed that is not `known` by its sha256; progress counts only what is kept.

    `prepare` turns bytes into what is computed, in `threads` threads, which call `known` too; `compute` gets `batch` at
    a time, and when it returns their results survive the end of the process.

    Raises:
        ConfigurationError: no photograph of the folder can be used.
    """
    findings = Findings()
    waiting: dict[str, P] = {}

    def look(file: ReferenceFile) -> tuple[str, P | None] | Skipped:
        try:
            content = read_file(file.path, limits=limits)
            identity = sha256(content)
            return identity, None if known(identity) else prepare(content)
        except InvalidImage as error:
            return Skipped(file.about.file_name, error.reason, error.message)
        except OSError as error:
            return Skipped(file.about.file_name, "FILE_UNREADABLE", f"it cannot be read ({error.strerror}).")

    def flush() -> None:
        compute(waiting)
        findings.computed += len(waiting)
        shown.advance(len(waiting))
        waiting.clear()

    # Closed before an error leaves here: no thread may go on to look into what its caller closes then.
    with contextlib.closing(_in_order(look, folder.photographs, threads, window=threads + 2 * batch)) as looked:
        for file, found in zip(folder.photographs, looked, strict=True):
            if not isinstance(found, Skipped) and found[0] in findings.files:
                same = findings.files[found[0]].about.file_name
                found = Skipped(file.about.file_name, "DUPLICATE", f"it has the same bytes as {same}.")
            if isinstance(found, Skipped):
                findings.skipped.append(found)
                shown.advance()
                continue
            identity, prepared = found
            findings.files[identity] = file
            if prepared is None:
                shown.advance()
                continue
            waiting[identity] = prepared
            if len(waiting) == batch:
                flush()
    if waiting:
        flush()
    if not findings.files:
        raise ConfigurationError(
            f"None of the {len(folder.photographs)} photographs of {folder.id} can be used; the first: "
            f"{findings.skipped[0].file_name}: {findings.skipped[0].sentence}"
        )
    return findings


def _in_order(
    look: Callable[[ReferenceFile], T], files: Sequence[ReferenceFile], threads: int, window: int
) -> Generator[T]:
    """Yields what `look` returns of the files, in their order; at most `window` of them are held in memory."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        pending: deque[Future[T]] = deque()
        for file in files:
            pending.append(pool.submit(look, file))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
