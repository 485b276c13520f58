"""The catalogue of a release: advisors, references with their metadata, embeddings and thumbnails, in one SQLite file.

Of a photograph only its thumbnail is stored, never its own bytes. What follows from the bytes alone (size, embedding,
thumbnail) is kept once for each photograph, what an advisor says about it once for each advisor. Every row carries a
checksum, which is compared whenever it is read: a byte that a disk changes while the release is served ends in a
sentence, not in another embedding or another title.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services.core.errors import ConfigurationError, NoRelease
from services.embedder.encoder import Matrix, Vector

FILE_NAME = "catalogue.sqlite"
_SCHEMA = """
CREATE TABLE advisors (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, bio TEXT NOT NULL, years TEXT NOT NULL, focus_areas TEXT NOT NULL,
    voice TEXT NOT NULL, link TEXT NOT NULL, reference_count INTEGER NOT NULL, checksum BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE photographs (
    id TEXT PRIMARY KEY, width INTEGER NOT NULL, height INTEGER NOT NULL, embedding BLOB NOT NULL,
    thumbnail BLOB NOT NULL, checksum BLOB NOT NULL, thumbnail_checksum BLOB NOT NULL
);
CREATE TABLE entries (
    advisor TEXT NOT NULL, label INTEGER NOT NULL, id TEXT NOT NULL, file_name TEXT NOT NULL, title TEXT NOT NULL,
    year INTEGER, location TEXT NOT NULL, description TEXT NOT NULL, significance TEXT NOT NULL, tags TEXT NOT NULL,
    best_for TEXT NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (advisor, label)
) WITHOUT ROWID;
CREATE UNIQUE INDEX entries_by_id ON entries (id, advisor);
"""
# Written by a version that had no checksums: 0.
_VERSION = 1
_ENTRY = "advisor, label, entries.id, file_name, title, year, location, description, significance, tags, best_for"
_SEEN = "photographs.id, width, height, embedding"
DAMAGED = "The catalogue was damaged after it was verified; `mondrian releases verify` says how to mend it."
GONE = "The catalogue cannot be opened any more; put the release back into MONDRIAN_DATA_DIR, or pre-compute it again."


@dataclass(frozen=True)
class AdvisorRecord:
    """An advisor of a release; the fields are those of the contract's Advisor."""

    id: str
    name: str
    bio: str = ""
    years: str = ""
    focus_areas: tuple[str, ...] = ()
    voice: str = ""
    link: str = ""
    reference_count: int = 0


@dataclass(frozen=True)
class Entry:
    """What an advisor says about a photograph; the fields are those of the contract's Reference."""

    id: str
    file_name: str
    title: str
    year: int | None = None
    location: str = ""
    description: str = ""
    significance: str = ""
    tags: tuple[str, ...] = ()
    best_for: tuple[str, ...] = ()
    """Names of dimensions, as services.core.advisors.DIMENSIONS has them."""


@dataclass(frozen=True)
class Photograph:
    """What follows from a photograph's bytes."""

    id: str
    """The lower-case hex sha256 of the bytes."""
    width: int
    """Of the upright photograph, in pixels."""
    height: int
    """Of the upright photograph, in pixels."""
    embedding: Vector
    """Of unit length."""
    thumbnail: bytes
    """A JPEG, long side at most 256 pixels."""


@dataclass(frozen=True)
class ReferenceRecord:
    """An entry and its place."""

    advisor: str
    label: int
    """The place among the advisor's references in the order of their ids, 0 and more; the index's label."""
    entry: Entry
    width: int
    height: int


class CatalogueWriter:
    """Writes a new catalogue; the file is whole after `complete`. Equal content gives equal bytes."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        # The release is fsynced as a whole when it is published: no journal is left beside it.
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        try:
            self._database.executescript(_SCHEMA)
            self._database.execute(f"PRAGMA user_version = {_VERSION}")
            self._database.execute("BEGIN")
        except BaseException:
            self._database.close()
            raise

    def add_photographs(self, photographs: Iterable[Photograph]) -> None:
        """Adds photographs; those that are there already are left as they are."""
        self._database.executemany(
            "INSERT OR IGNORE INTO photographs VALUES (?, ?, ?, ?, ?, ?, ?)", map(_photograph_row, photographs)
        )

    def add_advisor(self, advisor: AdvisorRecord, entries: Sequence[Entry]) -> None:
        """Adds an advisor and its entries, which must ascend by id: their places become the labels."""
        if any(first.id >= second.id for first, second in itertools.pairwise(entries)):
            raise ValueError("entries must ascend by id, each id once")
        self._database.execute(
            "INSERT INTO advisors VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            _sealed(
                advisor.id,
                advisor.name,
                advisor.bio,
                advisor.years,
                _json(advisor.focus_areas),
                advisor.voice,
                advisor.link,
                len(entries),
            ),
        )
        self._database.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                _sealed(
                    advisor.id,
                    label,
                    one.id,
                    one.file_name,
                    one.title,
                    one.year,
                    one.location,
                    one.description,
                    one.significance,
                    _json(one.tags),
                    _json(one.best_for),
                )
                for label, one in enumerate(entries)
            ),
        )

    def complete(self) -> None:
        """Commits everything; before this the file is of no use."""
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Closes the file."""
        self._database.close()


class Catalogue:
    """Reads a catalogue; safe to use from several threads at once."""

    def __init__(self, path: Path, dimensions: int, *, sealed: bool = False) -> None:
        """Opens a verified file; with `sealed`, one that is not: then a row counts only by its checksum.

        Raises:
            NoRelease: it is no catalogue, or its beginning is damaged.
        """
        self._dimensions = dimensions
        # Immutable: SQLite neither locks nor looks for a journal, so that a read-only volume will do.
        self._address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        # One a thread, so that a long read in one never holds up the event loop's.
        self._connections = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._sealed = sealed or self._rows("PRAGMA user_version")[0][0] >= _VERSION

    def close(self) -> None:
        """Closes the file; nothing can be read any more."""
        for connection in self._opened:
            connection.close()

    def advisors(self) -> list[AdvisorRecord]:
        """Returns every advisor, by id."""
        rows = self._rows("SELECT * FROM advisors ORDER BY id")
        return [
            AdvisorRecord(row[0], row[1], row[2], row[3], tuple(json.loads(row[4])), row[5], row[6], row[7])
            for row in (self._checked(row, 8) for row in rows)
        ]

    def reference(self, advisor: str, label: int) -> ReferenceRecord | None:
        """Returns the reference at an index's label; None where there is none."""
        records = self._records("advisor = ? AND label = ?", advisor, label)
        return records[0] if records else None

    def references_of(self, reference_id: str) -> list[ReferenceRecord]:
        """Returns a photograph's entry with every advisor that has it, by advisor; empty where none has."""
        return self._records("entries.id = ? ORDER BY advisor", reference_id)

    def entries(self, advisor: str) -> list[Entry]:
        """Returns an advisor's entries, by id."""
        records = self._records("advisor = ? ORDER BY label", advisor)
        counts = self._rows("SELECT reference_count FROM advisors WHERE id = ?", advisor)
        # A row that a damaged page has swallowed would give all after it another's label.
        if [record.label for record in records] != list(range(counts[0][0] if counts else 0)):
            raise NoRelease(DAMAGED)
        return [record.entry for record in records]

    def facets(self, advisor: str) -> Iterator[tuple[int | None, list[str]]]:
        """Yields year and tags of an advisor's references in the order of their labels; as `matrix`, of a file that
        was just verified."""
        for year, tags in self._each("SELECT year, tags FROM entries WHERE advisor = ? ORDER BY label", advisor):
            yield year, json.loads(tags)

    def embedding(self, photograph_id: str) -> Vector | None:
        """Returns a photograph's embedding; None where it is in no advisor's references."""
        rows = self._rows(f"SELECT {_SEEN}, {self._seal('photographs')} FROM photographs WHERE id = ?", photograph_id)
        return self._vector(self._checked(rows[0], 4)[3]) if rows else None

    def thumbnail(self, photograph_id: str) -> bytes:
        """Returns a photograph's thumbnail; empty where it is in no advisor's references."""
        photograph = self.photograph(photograph_id)
        return photograph.thumbnail if photograph else b""

    def photograph(self, photograph_id: str) -> Photograph | None:
        """Returns all that follows from a photograph's bytes; None where it is in no advisor's references."""
        seals = self._seal("photographs"), self._seal("photographs", "thumbnail_checksum")
        rows = self._rows(
            f"SELECT {_SEEN}, {seals[0]}, thumbnail, {seals[1]} FROM photographs WHERE id = ?", photograph_id
        )
        if not rows:
            return None
        identity, width, height, embedding = self._checked(rows[0], 4)
        _, thumbnail = self._checked((identity, *rows[0][5:]), 2)
        return Photograph(identity, width, height, self._vector(embedding), bytes(thumbnail))

    def reachable_ids(self) -> list[str]:
        """Returns the ids of all photographs; in a damaged file, of all that can be reached in one way or another."""
        found: set[str] = set()
        for table, order in itertools.product(("photographs", "entries"), ("", "ORDER BY id", "ORDER BY id DESC")):
            with contextlib.suppress(NoRelease, sqlite3.Error):
                # A damaged page ends a reading; from its other end, one comes to what lies behind it.
                found.update(row[0] for row in self._each(f"SELECT id FROM {table} {order}"))
        return sorted(one for one in found if isinstance(one, str))

    def matrix(self, advisor: str) -> Matrix:
        """Returns an advisor's embeddings: row number = label."""
        joined = "FROM entries JOIN photographs USING (id) WHERE advisor = ?"
        ((count,),) = self._rows(f"SELECT count(*) {joined}", advisor)
        # Row by row into its place: half a million of them need a gigabyte once, and not twice.
        matrix = np.empty((count, self._dimensions), np.float32)
        for label, (embedding,) in enumerate(self._each(f"SELECT embedding {joined} ORDER BY label", advisor)):
            matrix[label] = self._vector(embedding)
        return matrix

    def _records(self, condition: str, *values: object) -> list[ReferenceRecord]:
        rows = self._rows(
            f"SELECT {_ENTRY}, {self._seal('entries')}, {_SEEN}, {self._seal('photographs')} "
            f"FROM entries JOIN photographs ON photographs.id = entries.id WHERE {condition}",
            *values,
        )
        return [_record(self._checked(row, 11), self._checked(row[12:], 4)) for row in rows]

    def _seal(self, table: str, column: str = "checksum") -> str:
        return f"{table}.{column}" if self._sealed else "NULL"

    def _checked(self, row: tuple[Any, ...], length: int) -> tuple[Any, ...]:
        """Returns the first `length` values of a row, whose checksum comes next."""
        if self._sealed and _checksum(row[:length]) != row[length]:
            raise NoRelease(DAMAGED)
        return row[:length]

    def _vector(self, stored: bytes) -> Vector:
        if len(stored) != 4 * self._dimensions:
            raise ConfigurationError(
                f"The catalogue holds an embedding of {len(stored) // 4} numbers where the encoder has "
                f"{self._dimensions}; pre-compute the advisors again."
            )
        return np.frombuffer(stored, dtype="<f4").astype(np.float32)

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return list(self._each(query, *values))

    def _each(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        connection: sqlite3.Connection | None = getattr(self._connections, "open", None)
        if connection is None:
            try:
                connection = sqlite3.connect(self._address, uri=True, check_same_thread=False, isolation_level=None)
            except sqlite3.Error as error:
                raise NoRelease(GONE) from error
            self._connections.open = connection
            self._opened.append(connection)
        try:
            yield from connection.execute(query, values)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            # The file was verified and is only read: what SQLite stumbles over is damage, but for our own faults.
            own = isinstance(error, sqlite3.ProgrammingError)
            if own or getattr(error, "sqlite_errorname", "").startswith("SQLITE_READONLY"):
                raise
            # Opened anew by the next call, so that a file put right is read again.
            self._connections.open = None
            self._opened.remove(connection)
            connection.close()
            raise NoRelease(DAMAGED) from error


def _record(row: tuple[Any, ...], seen: tuple[Any, ...]) -> ReferenceRecord:
    advisor, label, identity, file_name, title, year, location, description, significance, tags, best_for = row
    entry = Entry(
        identity,
        file_name,
        title,
        year,
        location,
        description,
        significance,
        tuple(json.loads(tags)),
        tuple(json.loads(best_for)),
    )
    return ReferenceRecord(advisor, label, entry, seen[1], seen[2])


def _photograph_row(one: Photograph) -> tuple[Any, ...]:
    seen = _sealed(one.id, one.width, one.height, one.embedding.astype("<f4").tobytes())
    return (*seen[:4], one.thumbnail, seen[4], _checksum((one.id, one.thumbnail)))


def _sealed(*values: object) -> tuple[Any, ...]:
    return (*values, _checksum(values))


def _checksum(values: Sequence[object]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        content = value if isinstance(value, bytes) else repr(value).encode()
        digest.update(b"%d:" % len(content))
        digest.update(content)
    return digest.digest()


def _json(values: Sequence[str]) -> str:
    return json.dumps(list(values), ensure_ascii=False)
