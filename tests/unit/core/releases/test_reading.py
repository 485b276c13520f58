"""Reading releases: nothing damaged is read, and what is wrong is said in a sentence."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.core.errors import ConfigurationError, ReleaseDamaged
from services.core.releases import Manifest, ReleaseStore
from tests.unit.core.releases.stores import publish, text_of


def test_there_is_no_release_at_first(store: ReleaseStore) -> None:
    assert store.current() is None
    assert store.releases() == []
    assert store.signature() is None
    assert not store.root.exists(), "reading creates nothing"


def test_a_published_release_is_current_and_says_what_it_is(store: ReleaseStore) -> None:
    published = publish(store, "one", skipped=["a.jpg"])
    current = store.current()
    assert current is not None
    assert current.id == published.id
    assert text_of(current) == "one"
    assert current.manifest.space_id == "space"
    assert current.manifest.counts == {"ansel": 2}
    assert current.manifest.extra == {"skipped": ["a.jpg"]}
    assert set(current.manifest.files) == {"catalogue.sqlite", "ansel.hnsw"}
    assert os.readlink(store.current_link) == f"releases/{published.id}"
    with pytest.raises(ReleaseDamaged, match=r"no okeefe\.hnsw"):
        current.file("okeefe.hnsw")


def test_every_flipped_byte_is_refused_by_name_and_with_what_mends_it(store: ReleaseStore) -> None:
    release = publish(store, "one")
    flipped = 0
    for name in ("manifest.json", *release.manifest.files):
        path = release.path / name
        path.chmod(0o644)
        sound = path.read_bytes()
        for position in range(len(sound)):
            path.write_bytes(sound[:position] + bytes([sound[position] ^ 0x10]) + sound[position + 1 :])
            with pytest.raises(ReleaseDamaged, match=r"mondrian releases rollback") as refused:
                store.current()
            assert name in str(refused.value)
            flipped += 1
        for cut in (b"", sound[:-1], sound + b"\0"):
            path.write_bytes(cut)
            with pytest.raises(ReleaseDamaged):
                store.current()
        path.write_bytes(sound)
    assert flipped > 300
    assert store.current() is not None


def test_a_missing_or_replaced_file_is_refused(store: ReleaseStore, tmp_path: Path) -> None:
    release = publish(store, "one")
    path = release.path / "catalogue.sqlite"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(path.read_bytes())
    path.unlink()
    with pytest.raises(ReleaseDamaged, match=r"catalogue\.sqlite is missing"):
        store.current()
    path.symlink_to(elsewhere)
    with pytest.raises(ReleaseDamaged, match=r"catalogue\.sqlite is missing"):
        store.current()
    assert [sentence.count("catalogue.sqlite") for sentence in store.verify(release.id)] == [1]


def test_a_current_that_leads_nowhere_is_refused(store: ReleaseStore) -> None:
    publish(store, "one")
    for target in ("releases/" + "0" * 64, "/etc", "releases/../.."):
        store.current_link.unlink()
        store.current_link.symlink_to(target)
        with pytest.raises(ReleaseDamaged):
            store.current()
    store.current_link.unlink()
    store.current_link.mkdir()
    with pytest.raises(ReleaseDamaged, match="not a symbolic link"):
        store.current()


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything, and tests may be run by root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("closed", ["../data", "releases", "releases/*", "releases/*/manifest.json"])
def test_a_store_that_may_not_be_read_says_so(closed: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        store = ReleaseStore(Path(folder) / "data")
        release_id = publish(store, "one").id
        [shut] = store.root.glob(closed)
        shut.chmod(0)
        with unprivileged():
            with pytest.raises(ConfigurationError, match="Permission denied"):
                store.current()
            [problem] = store.verify(release_id)
            assert "Permission denied" in problem
            if closed.startswith("releases/"):
                [release] = store.releases()
                assert "Permission denied" in release.damage
            else:
                with pytest.raises(ConfigurationError, match=r"cannot be read \(Permission denied\)"):
                    store.releases()
            store.signature()
        shut.chmod(0o755)


def test_what_mends_a_damaged_store_names_its_service_and_its_folder(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path / "embedder")
    publish(store, "one")
    (store.current_link.resolve() / "catalogue.sqlite").unlink()
    with pytest.raises(ReleaseDamaged) as refused:
        store.current()
    assert "`mondrian releases rollback embedder`" in str(refused.value)
    assert "pre-compute an advisor again, which keeps what is intact" in str(refused.value)


def test_a_root_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReleaseDamaged, match=r"Not a directory.*MONDRIAN_DATA_DIR"):
        ReleaseStore(tmp_path / "file" / "embedder").current_id()


def test_an_id_vouches_for_its_manifest(store: ReleaseStore) -> None:
    release = publish(store, "one")
    manifest = Manifest.from_bytes((release.path / "manifest.json").read_bytes())
    assert manifest == release.manifest
    with pytest.raises(ValueError, match="format"):
        Manifest.from_bytes(json.dumps({"format": 2}).encode())
    escaping = {**json.loads(manifest.to_bytes()), "files": {"../../etc/passwd": "0" * 64}}
    with pytest.raises(ValueError, match="no release may hold"):
        Manifest.from_bytes(json.dumps(escaping).encode())


def test_a_release_that_is_collected_while_the_list_is_made_is_not_in_it(store: ReleaseStore) -> None:
    class Meanwhile(ReleaseStore):
        def _manifest(self, release_id: str) -> Manifest:
            if release_id == first:
                shutil.rmtree(self.path_of(first))
            return super()._manifest(release_id)

    first, second = publish(store, "one").id, publish(store, "two").id
    assert [info.id for info in Meanwhile(store.root).releases()] == [second]
