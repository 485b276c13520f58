"""What an interrupted precompute has finished: committed batch by batch, so that a killed run loses nothing said done.

One SQLite file a space in the store's work folder, used by the one writer. Each row carries its own checksum: what a
failing disk has changed is computed again instead of being published.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from services.core.errors import ConfigurationError
from services.embedder.catalogue import checksum
from services.embedder.records import Photograph

_SCHEMA = """
CREATE TABLE IF NOT EXISTS finished (
    id TEXT PRIMARY KEY, width INTEGER NOT NULL, height INTEGER NOT NULL, embedding BLOB NOT NULL,
    thumbnail BLOB NOT NULL, checksum BLOB NOT NULL
)
"""


class Work:
    """The finished photographs of one space; safe to read from several threads at once."""

    def __init__(self, folder: Path, space_id: str, dimensions: int) -> None:
        self._path = folder / f"{space_id}.sqlite"
        self._dimensions = dimensions
        self._one_at_a_time = threading.Lock()
        try:
            self._database = self._open()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                raise storage_error(error, self._path) from error
            # It only saves time: a damaged one is begun anew.
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            self._database = self._open()

    def get(self, photograph_id: str) -> Photograph | None:
        """Returns a finished photograph; None where it is not, or not as it was written."""
        with self._one_at_a_time:
            try:
                row = self._database.execute("SELECT * FROM finished WHERE id = ?", (photograph_id,)).fetchone()
            except (sqlite3.DatabaseError, UnicodeDecodeError):
                return None
        if row is None or row[5] != checksum(row[:5]) or len(row[3]) != 4 * self._dimensions:
            return None
        return Photograph(row[0], row[1], row[2], np.frombuffer(row[3], "<f4").astype(np.float32), row[4])

    def put(self, photographs: Iterable[Photograph]) -> None:
        """Keeps photographs; when this returns they survive the end of the process.

        Raises:
            ConfigurationError: the disk is full, or cannot be written to.
        """
        rows = []
        for one in photographs:
            values = (one.id, one.width, one.height, one.embedding.astype("<f4").tobytes(), one.thumbnail)
            rows.append((*values, checksum(values)))
        with self._one_at_a_time:
            try:
                self._database.execute("BEGIN")
                self._database.executemany("INSERT OR REPLACE INTO finished VALUES (?, ?, ?, ?, ?, ?)", rows)
                self._database.execute("COMMIT")
            except (sqlite3.Error, UnicodeDecodeError) as error:
                with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
                    self._database.execute("ROLLBACK")
                raise storage_error(error, self._path) from error

    def forget(self, photograph_ids: Iterable[str]) -> None:
        """Removes what a release holds now, and closes; where a full disk forbids it, it stays and does no harm."""
        left = 1
        with self._one_at_a_time, contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
            self._database.execute("BEGIN")
            self._database.executemany("DELETE FROM finished WHERE id = ?", ((one,) for one in photograph_ids))
            left = self._database.execute("SELECT count(*) FROM finished").fetchone()[0]
            self._database.execute("COMMIT")
        self.close()
        if not left:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(_SCHEMA)
            database.execute("SELECT id, width, height, embedding, thumbnail, checksum FROM finished LIMIT 1")
        except BaseException:
            database.close()
            raise
        return database


def _is_damage(error: Exception) -> bool:
    return getattr(error, "sqlite_errorname", "") in ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR")


def storage_error(error: Exception, path: Path) -> ConfigurationError:
    """Returns the sentence for a database that cannot be written."""
    if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return ConfigurationError(
            f"The disk that holds {path.parent} is full; free some space and run the same command again: "
            "nothing is lost."
        )
    return ConfigurationError(f"{path} cannot be written ({error}); remove it and run the same command again.")
