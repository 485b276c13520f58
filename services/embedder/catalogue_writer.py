"""Writes the catalogue of a release, which `catalogue` reads."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from services.embedder.catalogue import VERSION, checksum
from services.embedder.records import AdvisorRecord, Entry, Photograph

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


class CatalogueWriter:
    """Writes a new catalogue; the file is whole after `complete`. Equal content gives equal bytes."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        # The release is fsynced as a whole when it is published: no journal is left beside it.
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        try:
            self._database.executescript(_SCHEMA)
            self._database.execute(f"PRAGMA user_version = {VERSION}")
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
                    one.about.file_name,
                    one.about.title,
                    one.about.year,
                    one.about.location,
                    one.about.description,
                    one.about.significance,
                    _json(one.about.tags),
                    _json(one.about.best_for),
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


def _photograph_row(one: Photograph) -> tuple[Any, ...]:
    seen = _sealed(one.id, one.width, one.height, one.embedding.astype("<f4").tobytes())
    return (*seen[:4], one.thumbnail, seen[4], checksum((one.id, one.thumbnail)))


def _sealed(*values: object) -> tuple[Any, ...]:
    return (*values, checksum(values))


def _json(values: Sequence[str]) -> str:
    return json.dumps(list(values), ensure_ascii=False)
