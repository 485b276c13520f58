"""A damaged release does not stand in the way, and loses nothing that is provably intact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.core.errors import ConfigurationError, NoRelease, ReleaseDamaged
from services.core.images.reading import sha256
from services.core.releases import Release, collect
from services.embedder.catalogue import Catalogue
from services.embedder.precomputation import sentences
from services.embedder.work import Work
from tests.fakes.encoder import FakeEncoder
from tests.pictures import photograph
from tests.unit.embedder.test_precompute import Shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Has ansel (0 to 5) and okeefe (4 to 8), each searched by a graph; both in the only release."""
    shelf = Shelf(tmp_path)
    for advisor, seeds in (("ansel", range(6)), ("okeefe", range(4, 9))):
        shelf.folder(advisor, seeds)
        shelf.run(advisor, index="hnsw").release.close()
    collect(shelf.store, 0)
    shelf.encoder.batches.clear()
    return shelf


def current(shelf: Shelf) -> Path:
    release_id = shelf.store.current_id()
    assert release_id
    return shelf.store.path_of(release_id)


def flip(path: Path, position: int) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[position] ^= 0x20
    path.write_bytes(content)


def place_of(path: Path, content: bytes) -> int:
    place = path.read_bytes().find(content)
    assert place >= 0
    return place


def stored(release: Release, shelf: Shelf, seed: int) -> bytes:
    vector = shelf.references().catalogue.embedding(sha256(photograph(seed)))
    assert vector is not None
    return vector.astype("<f4").tobytes()


def test_a_damaged_graph_costs_no_inference(shelf: Shelf) -> None:
    damaged = current(shelf)
    flip(damaged / "okeefe.hnsw", 200)
    with pytest.raises(ReleaseDamaged, match="pre-compute an advisor again, which keeps what is intact"):
        shelf.store.current()
    outcome = shelf.run("ansel", index="hnsw")
    assert (outcome.computed, outcome.release.manifest.counts) == (0, {"ansel": 6, "okeefe": 5})
    assert shelf.store.verify(outcome.release.id) == []
    spoken = sentences("ansel", outcome)
    aside = shelf.store.damaged / damaged.name
    assert f"okeefe.hnsw differs from its sha256, and is replaced; it lies in {aside} and may be removed." in spoken[1]
    assert "Intact in it, and kept: okeefe." in spoken
    assert aside.is_dir()
    assert [info.id for info in shelf.store.releases()] == [outcome.release.id]
    assert shelf.run("ansel", index="hnsw").mended == ()


def test_a_disk_that_is_full_for_a_moment_costs_no_advisor(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(current(shelf) / "okeefe.hnsw", 200)
    before = shelf.store.current_id()

    def full(work: Work, photographs: object) -> None:
        monkeypatch.undo()
        raise ConfigurationError("The disk is full; free some space and run the same command again.")

    monkeypatch.setattr(Work, "put", full)
    with pytest.raises(ConfigurationError, match="disk is full"):
        shelf.run("ansel", index="hnsw")
    assert shelf.store.current_id() == before
    assert shelf.run("ansel", index="hnsw").release.manifest.counts == {"ansel": 6, "okeefe": 5}


def test_one_damaged_embedding_costs_one_inference_and_the_advisor_that_had_it(shelf: Shelf) -> None:
    release = shelf.store.current()
    assert release is not None
    path = release.path / "catalogue.sqlite"
    truth = {seed: stored(release, shelf, seed) for seed in range(9)}
    flip(path, place_of(path, truth[8]) + 3)
    release.close()
    outcome = shelf.run("ansel")
    # All of ansel's are intact. Okeefe's eighth is not, so okeefe is not either.
    assert (outcome.computed, outcome.release.manifest.counts) == (0, {"ansel": 6})
    assert "Not intact: okeefe; pre-compute again what is named here." in sentences("ansel", outcome)
    again = shelf.run("okeefe")
    assert (again.computed, again.release.manifest.counts) == (1, {"ansel": 6, "okeefe": 5})
    assert {seed: stored(again.release, shelf, seed) for seed in range(9)} == truth


def test_an_advisor_that_is_lost_is_taken_from_an_older_release_that_is_sound(shelf: Shelf) -> None:
    older = shelf.store.current_id()
    shelf.folder("ansel", range(20, 21))
    shelf.run("ansel").release.close()
    path = current(shelf) / "catalogue.sqlite"
    path.chmod(0o644)
    path.write_bytes(bytes(path.stat().st_size))
    outcome = shelf.run("ansel")
    # The seventh is in no sound release.
    assert (outcome.computed, outcome.release.manifest.counts) == (1, {"ansel": 7, "okeefe": 5})
    assert any(f"Kept as in release {str(older)[:12]}" in line and "okeefe" in line for line in outcome.mended)


@pytest.mark.parametrize("how", ["manifest", "folder", "link", "nonsense"])
def test_whatever_is_gone_pre_computing_goes_on_from_the_release_before(shelf: Shelf, how: str) -> None:
    older = shelf.store.current_id()
    shelf.folder("ansel", range(20, 21))
    shelf.run("ansel").release.close()
    damaged = current(shelf)
    if how == "manifest":
        flip(damaged / "manifest.json", 40)
    elif how == "folder":
        damaged.rename(shelf.path / "elsewhere")
    else:
        shelf.store.current_link.unlink()
        shelf.store.current_link.symlink_to("releases/" + "0" * 64 if how == "link" else "/etc")
    outcome = shelf.run("ansel")
    newest = shelf.store.current_id()
    assert newest not in (older, damaged.name)
    assert outcome.release.manifest.counts == {"ansel": 7, "okeefe": 5}
    assert outcome.mended
    assert np.array_equal(shelf.references().stored(sha256(photograph(20))), shelf.embedding(photograph(20)))


def test_a_damaged_release_that_is_being_served_stays_where_it_is(shelf: Shelf) -> None:
    release = shelf.store.current()
    assert release is not None
    flip(release.path / "ansel.hnsw", 200)
    outcome = shelf.run("ansel")
    assert "stays as long as a service reads it" in outcome.mended[0]
    assert release.path.is_dir()
    release.close()


def test_a_photograph_whose_row_is_damaged_while_it_is_served_is_left_to_the_encoder(shelf: Shelf) -> None:
    references = shelf.references()
    known, other = (sha256(photograph(seed)) for seed in (2, 3))
    path = current(shelf) / "catalogue.sqlite"
    flip(path, place_of(path, references.stored(known).tobytes()) + 3)
    # As one that has read nothing of the file since it was verified.
    references.catalogue = Catalogue(path, shelf.encoder.dimensions, sealed=True)
    assert references.embedding_of(known) is None
    with pytest.raises(NoRelease, match="mondrian releases verify"):
        references.stored(known)
    assert references.embedding_of(other) is not None


def test_nothing_of_another_space_is_salvaged(shelf: Shelf) -> None:
    flip(current(shelf) / "okeefe.hnsw", 200)
    newer = FakeEncoder(space_id="fake1111fake1111")
    outcome = shelf.run("ansel", encoder=newer)
    assert (outcome.computed, outcome.release.manifest.counts) == (6, {"ansel": 6})
    assert "Not intact: okeefe" in outcome.mended[-1]
