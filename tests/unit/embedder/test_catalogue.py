"""The catalogue gives back what was put in, and cannot be changed."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from services.core.advisors import About
from services.core.errors import ConfigurationError, NoRelease
from services.embedder.catalogue import Catalogue
from services.embedder.catalogue_writer import CatalogueWriter
from services.embedder.records import AdvisorRecord, Entry, Photograph

ANSEL = AdvisorRecord("ansel", "Ansel", "bio", "1902-1984", ("light", "zone system"), "calm", "https://example.org", 2)
OKEEFE = AdvisorRecord("okeefe", "O'Keefe", reference_count=1)
RIDGE = About("a.jpg", "Ridge", 1942, "Wyoming", "A ridge.", "It matters.", ("snow", "river"), ("lighting",))
FIRST = Entry("a" * 64, RIDGE)
SECOND = Entry("b" * 64, About("b.jpg", "b"))


def photograph(identity: str, seed: int) -> Photograph:
    vector = np.random.default_rng(seed).normal(size=8)
    return Photograph(identity, 300, 200, (vector / np.linalg.norm(vector)).astype(np.float32), b"jpeg" + bytes([seed]))


def write(path: Path) -> Path:
    writer = CatalogueWriter(path)
    writer.add_photographs([photograph("a" * 64, 1), photograph("b" * 64, 2), photograph("a" * 64, 3)])
    writer.add_advisor(ANSEL, [FIRST, SECOND])
    writer.add_advisor(OKEEFE, [FIRST])
    writer.complete()
    writer.close()
    return path


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(write(tmp_path / "catalogue.sqlite"), dimensions=8)


def test_what_is_put_in_comes_out(catalogue: Catalogue) -> None:
    assert catalogue.advisors() == [ANSEL, OKEEFE]
    record = catalogue.reference("ansel", 0)
    assert record is not None
    assert (record.entry, record.advisor, record.width, record.height) == (FIRST, "ansel", 300, 200)
    assert catalogue.reference("ansel", 2) is None
    assert [one.advisor for one in catalogue.references_of("a" * 64)] == ["ansel", "okeefe"]
    assert catalogue.references_of("c" * 64) == []
    assert catalogue.entries("ansel") == [FIRST, SECOND]
    assert catalogue.entries("nobody") == []
    stored = catalogue.photograph("b" * 64)
    assert stored is not None
    assert stored.thumbnail == catalogue.thumbnail("b" * 64) == b"jpeg\x02"
    np.testing.assert_array_equal(stored.embedding, photograph("b" * 64, 2).embedding)
    assert stored.embedding.dtype == np.float32
    assert catalogue.photograph("c" * 64) is None
    assert catalogue.embedding("c" * 64) is None
    assert catalogue.thumbnail("c" * 64) == b""


def test_rows_of_the_matrix_are_the_labels(catalogue: Catalogue) -> None:
    matrix = catalogue.matrix("ansel")
    np.testing.assert_array_equal(matrix[1], photograph("b" * 64, 2).embedding)
    assert catalogue.matrix("nobody").shape == (0, 8)


def test_a_photograph_of_two_advisors_is_stored_once_and_the_first_stays(catalogue: Catalogue) -> None:
    np.testing.assert_array_equal(catalogue.embedding("a" * 64), photograph("a" * 64, 1).embedding)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "one").read_bytes() == write(tmp_path / "two").read_bytes()


def test_a_reader_can_change_nothing(catalogue: Catalogue) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        catalogue._rows("DELETE FROM entries")


def test_entries_must_ascend(tmp_path: Path) -> None:
    writer = CatalogueWriter(tmp_path / "catalogue.sqlite")
    with pytest.raises(ValueError, match="ascend"):
        writer.add_advisor(ANSEL, [SECOND, FIRST])
    with pytest.raises(ValueError, match="ascend"):
        writer.add_advisor(ANSEL, [FIRST, FIRST])
    writer.close()


def test_embeddings_of_another_length_are_refused(tmp_path: Path) -> None:
    catalogue = Catalogue(write(tmp_path / "catalogue.sqlite"), dimensions=16)
    with pytest.raises(ConfigurationError, match="8 numbers"):
        catalogue.embedding("a" * 64)


def test_a_catalogue_damaged_while_it_is_served_is_a_sentence_until_it_is_put_right(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    path = tmp_path / "catalogue.sqlite"
    sound = path.read_bytes()
    path.write_bytes(bytes(len(sound)))
    for _ in range(2):
        with pytest.raises(NoRelease, match="mondrian releases verify"):
            catalogue.thumbnail("a" * 64)
    path.write_bytes(sound)
    assert catalogue.thumbnail("a" * 64) == b"jpeg\x01"


def test_a_catalogue_whose_folder_goes_is_a_sentence_in_every_thread_until_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    catalogue = Catalogue(write(folder / "catalogue.sqlite"), dimensions=8)
    folder.rename(tmp_path / "away")
    # A thread that has opened nothing yet.
    with ThreadPoolExecutor(1) as thread:
        with pytest.raises(NoRelease, match="MONDRIAN_DATA_DIR"):
            thread.submit(catalogue.thumbnail, "a" * 64).result()
        (tmp_path / "away").rename(folder)
        assert thread.submit(catalogue.thumbnail, "a" * 64).result() == b"jpeg\x01"


def everything(catalogue: Catalogue) -> list[object]:
    """Reads all there is in every way; what cannot be read is left out."""
    ways: list[Callable[[], object]] = [
        catalogue.advisors,
        lambda: catalogue.entries("ansel"),
        *(functools.partial(catalogue.reference, "ansel", label) for label in range(2)),
        *(
            functools.partial(way, identity * 64)
            for way in (catalogue.references_of, catalogue.embedding, catalogue.thumbnail, catalogue.photograph)
            for identity in "ab"
        ),
    ]
    read: list[object] = []
    for way in ways:
        try:
            read.append(repr(way()))
        except NoRelease:
            read.append(None)
    return read


def test_a_byte_that_changes_while_it_is_served_never_comes_out_as_something_else(tmp_path: Path) -> None:
    path = write(tmp_path / "catalogue.sqlite")
    sound = path.read_bytes()
    true = everything(Catalogue(path, 8))
    absent = {repr(None), repr([]), repr(b"")}
    # Where a photograph is with two advisors, one of them may be out of reach.
    found = Catalogue(path, 8).references_of("a" * 64)
    everywhere, one_of_them = repr(found), {repr([one]) for one in found}
    noticed = 0
    # A high bit makes words no UTF-8, also those of the schema, which lie in the first page.
    places = [*((place, 0x01) for place in range(0, len(sound), 7)), *((place, 0x80) for place in range(0, 4096, 5))]
    for position, bit in places:
        path.write_bytes(sound[:position] + bytes([sound[position] ^ bit]) + sound[position + 1 :])
        # As opened before the byte changed: `sealed` stands for what was read then.
        catalogue = Catalogue(path, 8, sealed=True)
        read = everything(catalogue)
        catalogue.close()
        for got, wanted in zip(read, true, strict=True):
            assert got in (None, wanted) or got in absent or (wanted == everywhere and got in one_of_them)
        noticed += read != true
    assert noticed > 20


def test_a_catalogue_without_checksums_is_read_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "catalogue.sqlite")
    true = everything(Catalogue(path, 8))
    database = sqlite3.connect(path, isolation_level=None)
    for table, column in (("advisors", "checksum"), ("entries", "checksum"), ("photographs", "checksum")):
        database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    database.execute("ALTER TABLE photographs DROP COLUMN thumbnail_checksum")
    database.execute("PRAGMA user_version = 0")
    database.close()
    assert everything(Catalogue(path, 8)) == true
