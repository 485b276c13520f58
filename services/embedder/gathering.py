"""The first half of precompute: every photograph of a folder is embedded, or found done, or skipped with a reason."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from services.core.advisors import AdvisorFolder, ReferenceFile
from services.core.commands.precompute import Skipped
from services.core.commands.progress import Progress
from services.core.errors import ConfigurationError, InvalidImage
from services.core.images import reading
from services.core.images.reading import ImageLimits
from services.embedder.catalogue import Catalogue
from services.embedder.encoder import Encoder, Pixels
from services.embedder.records import Entry, Photograph
from services.embedder.work import Work


@dataclass(frozen=True)
class _Prepared:
    """A file that was looked at: known already, or ready for the encoder."""

    file: ReferenceFile
    id: str
    pixels: Pixels | None = None
    width: int = 0
    height: int = 0
    thumbnail: bytes = b""


@dataclass
class Findings:
    """The references found so far, and what was left out."""

    entries: dict[str, Entry] = field(default_factory=dict)
    """By the photograph's id."""
    skipped: list[Skipped] = field(default_factory=list)
    """In the order of the files."""
    computed: int = 0
    """How many met the encoder, 0 and more."""


class Source:
    """Where finished photographs are: in the work of an interrupted run, or in the release before."""

    def __init__(self, work: Work, catalogue: Catalogue | None) -> None:
        self._work = work
        self._catalogue = catalogue

    def get(self, photograph_id: str) -> Photograph | None:
        """Returns a finished photograph; None where it is nowhere."""
        found = self._work.get(photograph_id)
        if found is None and self._catalogue is not None:
            found = self._catalogue.photograph(photograph_id)
        return found

    def require(self, photograph_id: str) -> Photograph:
        """Returns a finished photograph.

        Raises: ConfigurationError: it is in neither, for example because the work folder was removed during the run.
        """
        found = self.get(photograph_id)
        if found is None:
            raise ConfigurationError(
                f"The work on photograph {photograph_id[:12]} is gone; run the same command again."
            )
        return found


def gather(
    folder: AdvisorFolder,
    encoder: Encoder,
    source: Source,
    work: Work,
    limits: ImageLimits,
    batch: int,
    threads: int,
    shown: Progress,
) -> Findings:
    """Brings every usable photograph into the work or finds it done; progress counts only what is kept."""
    findings = Findings()
    waiting: list[_Prepared] = []
    seen: dict[str, str] = {}

    def flush() -> None:
        vectors = encoder.forward_images([one.pixels for one in waiting if one.pixels is not None])
        work.put(
            Photograph(one.id, one.width, one.height, vector, one.thumbnail)
            for one, vector in zip(waiting, vectors, strict=True)
        )
        findings.computed += len(waiting)
        shown.advance(len(waiting))
        waiting.clear()

    def skip(skipped: Skipped) -> None:
        findings.skipped.append(skipped)
        shown.advance()

    def prepare(file: ReferenceFile) -> _Prepared | Skipped:
        return _prepare(file, encoder, source, limits)

    for prepared in _in_order(prepare, folder.photographs, threads, window=threads + 2 * batch):
        if isinstance(prepared, Skipped):
            skip(prepared)
        elif prepared.id in seen:
            sentence = f"it has the same bytes as {seen[prepared.id]}."
            skip(Skipped(prepared.file.about.file_name, "DUPLICATE", sentence))
        else:
            seen[prepared.id] = prepared.file.about.file_name
            findings.entries[prepared.id] = Entry(prepared.id, prepared.file.about)
            if prepared.pixels is None:
                shown.advance()
                continue
            waiting.append(prepared)
            if len(waiting) == batch:
                flush()
    if waiting:
        flush()
    return findings


def _in_order(
    prepare: Callable[[ReferenceFile], _Prepared | Skipped], files: Sequence[ReferenceFile], threads: int, window: int
) -> Iterator[_Prepared | Skipped]:
    """Yields the prepared files in their order; at most `window` of them are held in memory."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        pending: deque[Future[_Prepared | Skipped]] = deque()
        for file in files:
            pending.append(pool.submit(prepare, file))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare(file: ReferenceFile, encoder: Encoder, source: Source, limits: ImageLimits) -> _Prepared | Skipped:
    try:
        content = reading.read_file(file.path, limits=limits)
        identity = reading.sha256(content)
        if source.get(identity) is not None:
            return _Prepared(file, identity)
        width, height = reading.upright_size(content, limits=limits)
        photograph = encoder.photograph(content, limits)
        return _Prepared(file, identity, encoder.pixels(photograph), width, height, reading.thumbnail_jpeg(photograph))
    except InvalidImage as error:
        return Skipped(file.about.file_name, error.reason, error.message)
    except OSError as error:
        return Skipped(file.about.file_name, "FILE_UNREADABLE", f"it cannot be read ({error.strerror}).")
