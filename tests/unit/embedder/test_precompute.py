"""Pre-computing: new photographs only, nothing lost, nothing mixed, and one sentence when it cannot be."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.core.advisors import load_advisor
from services.core.commands.progress import progress
from services.core.errors import ConfigurationError, WriterBusy
from services.core.images.reading import ImageLimits, sha256
from services.core.releases import ReleaseStore, writing
from services.embedder import precompute as command
from services.embedder.indexing import Asked, IndexRecord
from services.embedder.precomputation import Outcome, precompute, sentences
from services.embedder.references import References, load_references
from tests.fakes.encoder import FakeEncoder
from tests.load.add_one import OTHER_SPACE, series
from tests.pictures import advisor_folder, encoded, photograph, picture


class Shelf:
    """A store, an encoder, and a folder for each advisor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.encoder = FakeEncoder()
        self.store = ReleaseStore(path / "data" / "embedder")

    def folder(self, advisor: str, seeds: range) -> Path:
        return advisor_folder(self.path / advisor, seeds)

    def run(
        self, advisor: str, *, encoder: FakeEncoder | None = None, batch: int = 4, index: Asked = "auto"
    ) -> Outcome:
        return precompute(
            load_advisor(self.path / advisor, advisor),
            encoder or self.encoder,
            self.store,
            limits=ImageLimits(max_bytes=100_000),
            batch=batch,
            threads=2,
            index=index,
            report=lambda title, total: progress(title, total, quiet=True),
        )

    def references(self, encoder: FakeEncoder | None = None) -> References:
        used = encoder or self.encoder
        release = self.store.current()
        assert release is not None
        return load_references(release, space_id=used.space_id, encoder_name=used.name, dimensions=used.dimensions)

    def embedding(self, content: bytes) -> np.ndarray:
        vectors = FakeEncoder().forward_images([self.encoder.pixels(self.encoder.photograph(content))])
        return np.asarray(vectors[0])


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_every_photograph_is_found_by_its_own_embedding(shelf: Shelf) -> None:
    shelf.folder("ansel", range(10))
    outcome = shelf.run("ansel")
    assert (outcome.references, outcome.computed, outcome.skipped, outcome.left_behind) == (10, 10, (), ())
    assert shelf.encoder.batches == [4, 4, 2]
    references = shelf.references()
    for seed in range(10):
        (nearest,) = references.nearest(shelf.embedding(photograph(seed)), 1, advisor="ansel")
        assert nearest.reference.entry.id == sha256(photograph(seed))
        assert nearest.reference.entry.about.file_name == f"{seed:03d}.png"
        assert (nearest.reference.width, nearest.reference.height) == (96, 64)
        assert nearest.similarity == pytest.approx(1.0, abs=1e-6)
    manifest = outcome.release.manifest
    assert manifest.space_id == shelf.encoder.space_id
    assert manifest.counts == {"ansel": 10}
    assert manifest.extra["encoder"] == f"fake@{shelf.encoder.space_id}"
    assert manifest.extra["indexes"]["ansel"]["recall"]["10"] >= 0.999
    assert list(shelf.store.work.iterdir()) == [], "what the release holds is not kept twice"


def test_metadata_goes_into_the_release_and_the_photograph_does_not(shelf: Shelf) -> None:
    folder = shelf.folder("ansel", range(2))
    (folder / "advisor.yaml").write_text("id: ansel\nname: Ansel\nbio: Sample.\nfocus_areas: [light, form]\n")
    (folder / "metadata.yaml").write_text(
        "001.png: {title: Ridge, year: 1942, location: Wyoming, tags: [snow, river], best_for: [lighting]}\n"
    )
    shelf.run("ansel")
    references = shelf.references()
    (advisor,) = references.advisors
    assert (advisor.name, advisor.bio, advisor.focus_areas, advisor.reference_count) == (
        "Ansel",
        "Sample.",
        ("light", "form"),
        2,
    )
    record = references.reference(sha256(photograph(1)))
    assert (record.entry.about.title, record.entry.about.year, record.entry.about.location) == (
        "Ridge",
        1942,
        "Wyoming",
    )
    assert (record.entry.about.tags, record.entry.about.best_for) == (("snow", "river"), ("lighting",))
    assert references.reference(sha256(photograph(0))).entry.about.title == "000"
    assert references.catalogue.thumbnail(record.entry.id).startswith(b"\xff\xd8")
    release = shelf.store.current()
    assert release is not None
    held = b"".join((release.path / name).read_bytes() for name in release.manifest.files)
    assert photograph(1) not in held
    assert photograph(1)[60:160] not in held


def test_one_new_photograph_costs_one_inference(shelf: Shelf) -> None:
    shelf.folder("ansel", range(20))
    shelf.run("ansel")
    shelf.encoder.batches.clear()
    assert shelf.run("ansel").computed == 0
    assert shelf.encoder.batches == []
    shelf.folder("ansel", range(20, 21))
    outcome = shelf.run("ansel")
    assert (outcome.references, outcome.computed) == (21, 1)
    assert shelf.encoder.batches == [1]


def test_with_another_encoder_everything_is_new_and_nothing_old_remains(tmp_path: Path) -> None:
    """A short form of `python -m tests.load.add_one`, which does it with 10,000 photographs."""
    runs = series(30, tmp_path)
    assert [one.inferences for one in runs] == [30, 0, 1, 31]
    assert [one.space_id for one in runs] == [FakeEncoder().space_id] * 3 + [OTHER_SPACE]
    newer = FakeEncoder(space_id=OTHER_SPACE)
    release = ReleaseStore(tmp_path / "data" / "embedder").current()
    assert release is not None
    references = load_references(release, space_id=OTHER_SPACE, encoder_name="fake", dimensions=newer.dimensions)
    for seed in range(31):
        (vector,) = newer.forward_images([newer.pixels(newer.photograph(photograph(seed)))])
        assert np.array_equal(references.stored(sha256(photograph(seed))), vector)


def test_the_same_folder_again_gives_the_same_release(shelf: Shelf) -> None:
    shelf.folder("ansel", range(5))
    assert shelf.run("ansel").release.id == shelf.run("ansel").release.id
    assert len(shelf.store.releases()) == 1


def test_a_photograph_that_was_removed_leaves_the_references(shelf: Shelf) -> None:
    folder = shelf.folder("ansel", range(5))
    shelf.run("ansel")
    (folder / "references" / "002.png").unlink()
    outcome = shelf.run("ansel")
    assert (outcome.references, outcome.computed) == (4, 0)
    assert shelf.references().embedding_of(sha256(photograph(2))) is None


def test_new_metadata_alone_costs_no_inference_and_keeps_the_index(shelf: Shelf) -> None:
    folder = shelf.folder("ansel", range(5))
    first = shelf.run("ansel", index="hnsw").release
    (folder / "metadata.yaml").write_text("001.png: {title: Ridge}\n")
    outcome = shelf.run("ansel", index="hnsw")
    assert outcome.computed == 0
    assert outcome.release.id != first.id
    assert outcome.release.manifest.files["ansel.hnsw"] == first.manifest.files["ansel.hnsw"]
    assert shelf.references().reference(sha256(photograph(1))).entry.about.title == "Ridge"


def test_another_index_that_is_asked_for_is_built_without_an_inference(shelf: Shelf) -> None:
    shelf.folder("ansel", range(5))
    assert "ansel.hnsw" not in shelf.run("ansel", index="exact").release.manifest.files
    outcome = shelf.run("ansel", index="hnsw")
    assert (outcome.computed, outcome.index.method) == (0, "hnsw")
    assert "ansel.hnsw" in outcome.release.manifest.files
    assert shelf.run("ansel", index="hnsw").release.id == outcome.release.id


def test_broken_files_are_skipped_by_name_and_with_a_reason(shelf: Shelf) -> None:
    references = shelf.folder("ansel", range(3)) / "references"
    (references / "a_empty.jpg").write_bytes(b"")
    (references / "b_words.jpg").write_bytes(b"not a photograph")
    (references / "c_cut.png").write_bytes(photograph(8)[:300])
    (references / "d_large.png").write_bytes(bytes(100_001))
    (references / "e_same.png").write_bytes(photograph(1))
    (references / "f_link.png").symlink_to(references / "nowhere.png")
    outcome = shelf.run("ansel")
    assert outcome.references == 3
    reasons = {one.file_name: one.reason for one in outcome.skipped}
    assert reasons == {
        "a_empty.jpg": "IMAGE_EMPTY",
        "b_words.jpg": "IMAGE_UNDECODABLE",
        "c_cut.png": "IMAGE_TRUNCATED",
        "d_large.png": "IMAGE_TOO_LARGE",
        "e_same.png": "DUPLICATE",
    }
    recorded = outcome.release.manifest.extra["skipped"]["ansel"]
    assert {one["file_name"]: one["reason"] for one in recorded} == reasons
    assert "001.png" in next(one.sentence for one in outcome.skipped if one.reason == "DUPLICATE")
    spoken = sentences("ansel", outcome)
    assert all(any(name in line for line in spoken) for name in reasons)


def test_an_advisor_without_a_usable_photograph_is_refused_and_the_release_stays(shelf: Shelf) -> None:
    shelf.folder("ansel", range(3))
    before = shelf.run("ansel").release.id
    broken = shelf.folder("okeefe", range(0)) / "references"
    (broken / "one.jpg").write_bytes(b"no")
    with pytest.raises(ConfigurationError, match=r"None of the 1 photographs.*one\.jpg"):
        shelf.run("okeefe")
    assert shelf.store.current_id() == before


def test_other_advisors_stay_as_they_are(shelf: Shelf) -> None:
    shelf.folder("ansel", range(6))
    shelf.folder("okeefe", range(4, 9))
    first = shelf.run("ansel", index="hnsw").release
    shelf.encoder.batches.clear()
    outcome = shelf.run("okeefe", index="hnsw")
    # The two photographs that ansel has already are not computed again.
    assert (outcome.references, outcome.computed) == (5, 3)
    assert outcome.release.manifest.counts == {"ansel": 6, "okeefe": 5}
    assert outcome.release.manifest.files["ansel.hnsw"] == first.manifest.files["ansel.hnsw"]
    references = shelf.references()
    shared = sha256(photograph(5))
    assert [one.advisor for one in references.catalogue.references_of(shared)] == ["ansel", "okeefe"]
    found = references.nearest(shelf.embedding(photograph(5)), 3)
    assert [(one.reference.entry.id, one.reference.advisor) for one in found[:2]] == [
        (shared, "ansel"),
        (shared, "okeefe"),
    ]
    without = references.nearest(shelf.embedding(photograph(5)), 3, without=shared)
    assert len(without) == 3
    assert shared not in [one.reference.entry.id for one in without]


def test_another_space_starts_afresh_and_says_who_is_missing(shelf: Shelf) -> None:
    shelf.folder("ansel", range(4))
    shelf.folder("okeefe", range(4, 8))
    shelf.run("ansel")
    shelf.run("okeefe")
    newer = FakeEncoder(space_id="fake1111fake1111")
    outcome = shelf.run("ansel", encoder=newer)
    assert (outcome.computed, outcome.left_behind) == (4, ("okeefe",))
    assert outcome.release.manifest.counts == {"ansel": 4}
    assert "okeefe must be pre-computed again" in " ".join(sentences("ansel", outcome))
    with pytest.raises(ConfigurationError, match="pre-compute the advisors again"):
        shelf.references()
    assert len(shelf.references(newer).advisors) == 1


class Interrupting(FakeEncoder):
    """Ends like a process that is told to, in the third batch."""

    def forward_images(self, batch: Any) -> Any:
        if len(self.batches) == 2:
            raise KeyboardInterrupt
        return super().forward_images(batch)


def test_an_interrupted_run_goes_on_where_it_was(shelf: Shelf) -> None:
    shelf.folder("okeefe", range(20, 22))
    before = shelf.run("okeefe").release.id
    shelf.folder("ansel", range(12))
    with pytest.raises(KeyboardInterrupt):
        shelf.run("ansel", encoder=Interrupting())
    assert shelf.store.current_id() == before
    # Another advisor's run in between takes nothing away.
    shelf.folder("okeefe", range(22, 23))
    assert shelf.run("okeefe").computed == 1
    outcome = shelf.run("ansel")
    assert (outcome.references, outcome.computed) == (12, 4)


def test_two_runs_at_once_are_refused(shelf: Shelf) -> None:
    shelf.folder("ansel", range(2))
    with writing(shelf.store), pytest.raises(WriterBusy, match="Another precompute"):
        shelf.run("ansel")


def test_an_index_that_another_version_described_is_built_anew(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    for advisor in ("ansel", "okeefe"):
        shelf.folder(advisor, range(6))
    with monkeypatch.context() as patch:
        patch.setattr(IndexRecord, "to_json", lambda record: {**vars(record), "of_another_version": 1})
        shelf.run("ansel", index="hnsw").release.close()
    outcome = shelf.run("okeefe", index="hnsw")
    assert (outcome.computed, outcome.release.manifest.counts) == (0, {"ansel": 6, "okeefe": 6})
    assert len(shelf.references().nearest(shelf.embedding(photograph(0)), 3, advisor="ansel")) == 3


def test_older_releases_are_collected(shelf: Shelf) -> None:
    for seed in range(9):
        shelf.folder("ansel", range(seed, seed + 1))
        shelf.run("ansel")
    assert len(shelf.store.releases()) == 6


def test_a_rotated_photograph_has_its_upright_size(shelf: Shelf) -> None:
    references = shelf.folder("ansel", range(0)) / "references"
    exif = picture(1).getexif()
    exif[0x0112] = 6
    (references / "turned.jpg").write_bytes(encoded(picture(1), "JPEG", exif=exif))
    shelf.run("ansel")
    (record,) = shelf.references().catalogue.references_of(sha256((references / "turned.jpg").read_bytes()))
    assert (record.width, record.height) == (64, 96)


# The command


def invoke(shelf: Shelf, *arguments: str, encoder: FakeEncoder | None = None) -> int:
    data = ["--data-dir", str(shelf.path / "data")]
    return command.run([*arguments, *data], make_encoder=lambda settings: encoder or shelf.encoder)


def test_the_command_prints_what_it_did(
    shelf: Shelf, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shelf.folder("ansel", range(25))
    monkeypatch.setenv("MONDRIAN_EMBEDDER_INDEX", "hnsw")
    assert invoke(shelf, "--advisor-dir", str(folder), "--advisor-id", "ansel") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("ansel: 25 references, 25 of them new, searched by HNSW with recall 1.0000; release ")
    assert "25 of 25" in printed.err
    assert invoke(shelf, "--advisor-dir", str(folder), "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_the_command_names_what_it_leaves_out_once_or_leaves_that_to_its_caller(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shelf.folder("ansel", range(2))
    (folder / "references" / "broken.jpg").write_bytes(b"no photograph")
    (folder / "references" / "notes.txt").write_text("x")
    for more, times in (([], 1), (["--brief"], 0)):
        assert invoke(shelf, "--advisor-dir", str(folder), *more) == 0
        printed = "".join(capsys.readouterr())
        assert [printed.count(name) for name in ("broken.jpg", "notes.txt")] == [times, times]


@pytest.mark.parametrize("case", ["no folder", "no photograph", "bad id", "busy", "interrupted"])
def test_the_command_ends_with_one_sentence(
    shelf: Shelf, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("MONDRIAN_EMBEDDER_MAX_BATCH", "4")
    folder = shelf.folder("ansel", range(0) if case == "no photograph" else range(12))
    if case == "no folder":
        shutil.rmtree(folder)
    arguments = ["--advisor-dir", str(folder), "--advisor-id", "An Sel" if case == "bad id" else "ansel", "--quiet"]
    encoder = Interrupting() if case == "interrupted" else None
    with writing(shelf.store) if case == "busy" else contextlib.nullcontext():
        code = invoke(shelf, *arguments, encoder=encoder)
    assert code == (130 if case == "interrupted" else 2)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("mondrian: ")
    assert "Traceback" not in printed.err


def test_the_manifest_is_plain_json(shelf: Shelf) -> None:
    shelf.folder("ansel", range(2))
    release = shelf.run("ansel").release
    manifest = json.loads((release.path / "manifest.json").read_text())
    assert set(manifest["extra"]) == {"encoder", "dimensions", "indexes", "skipped"}
