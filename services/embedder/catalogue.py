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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.core.advisors import About
from services.core.errors import ConfigurationError, NoRelease
from services.embedder.encoder import Matrix, Vector
from services.embedder.records import AdvisorRecord, Entry, Photograph, ReferenceRecord

FILE_NAME = "catalogue.sqlite"
VERSION = 1
"""Of a file with checksums; one that a version without them wrote has 0."""
_ENTRY = "advisor, label, entries.id, file_name, title, year, location, description, significance, tags, best_for"
_SEEN = "photographs.id, width, height, embedding"
DAMAGED = "The catalogue was damaged after it was verified; `mondrian releases verify` says how to mend it."
GONE = "The catalogue cannot be opened any more; put the release back into MONDRIAN_DATA_DIR, or pre-compute it again."


class Catalogue:
    """Reads a catalogue; safe to use from several threads at once."""

    def __init__(self, path: Path, dimensions: int, *, sealed: bool = False) -> None:
        """Opens a verified file; with `sealed`, an unverified one, of which a row counts only if its checksum is right.

        Raises:
            NoRelease: it is no catalogue, or its beginning is damaged.
        """
        self._dimensions = dimensions
        # Immutable: SQLite neither locks nor looks for a journal, so that a read-only volume will do.
        self._address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        # One a thread, so that a long read in one never holds up the event loop's.
        self._connections = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._sealed = sealed or self._rows("PRAGMA user_version")[0][0] >= VERSION

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
        # If a damaged page has swallowed a row, all rows after it would get the wrong label.
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
                # Reading stops at a damaged page; reading from the other end reaches what lies behind it.
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
        if self._sealed and checksum(row[:length]) != row[length]:
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
            # The file was verified and is only read: an error of SQLite means damage, unless the fault is our own.
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
    about = About(
        file_name,
        title,
        year,
        location,
        description,
        significance,
        tuple(json.loads(tags)),
        tuple(json.loads(best_for)),
    )
    return ReferenceRecord(advisor, label, Entry(identity, about), seen[1], seen[2])


def checksum(values: Sequence[object]) -> bytes:
    """Returns the 16 bytes by which a row is known to be as it was written."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        content = value if isinstance(value, bytes) else repr(value).encode()
        digest.update(b"%d:" % len(content))
        digest.update(content)
    return digest.digest()
