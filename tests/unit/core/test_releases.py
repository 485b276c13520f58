"""Releases: nothing damaged is read, nothing unfinished is served, and readers never notice a change."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path

import pytest

from services.core.errors import ConfigurationError, NoRelease, ReleaseDamaged, WriterBusy
from services.core.metrics import RELEASE_DAMAGED
from services.core.releases import Manifest, Release, ReleaseStore, ReleaseWatcher, collect, rollback, writing

REPOSITORY = Path(__file__).resolve().parents[3]


def publish(store: ReleaseStore, content: str, **extra: object) -> Release:
    with writing(store) as writer, writer.stage() as folder:
        (folder / "catalogue.sqlite").write_text(content)
        (folder / "ansel.hnsw").write_bytes(content.encode() * 3)
        return writer.publish(folder, space_id="space", counts={"ansel": 2}, extra=extra)


def text_of(release: Release) -> str:
    return release.file("catalogue.sqlite").read_text()


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "data")


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


def test_publishing_the_same_again_changes_nothing(store: ReleaseStore) -> None:
    first = publish(store, "one", recall={"ansel": 1.0})
    again = publish(store, "one", recall={"ansel": 1.0})
    assert again.id == first.id
    assert len(store.releases()) == 1
    assert publish(store, "one", recall={"ansel": 0.5}).id != first.id


@pytest.mark.parametrize("name", ["manifest.json", "reader.lock", ".hidden", "a b", "folder"])
def test_a_release_holds_plain_files_only(store: ReleaseStore, name: str) -> None:
    with writing(store) as writer, writer.stage() as folder:
        if name == "folder":
            (folder / name).mkdir()
        else:
            (folder / name).write_text("x")
        with pytest.raises(ValueError, match="cannot hold"):
            writer.publish(folder, space_id="space", counts={})


def test_an_empty_release_is_refused(store: ReleaseStore) -> None:
    with writing(store) as writer, writer.stage() as folder, pytest.raises(ValueError, match="at least one"):
        writer.publish(folder, space_id="space", counts={})


def test_a_second_writer_is_refused_in_one_sentence_and_a_stale_lock_is_none(store: ReleaseStore) -> None:
    with writing(store):
        with pytest.raises(WriterBusy, match=f"process {os.getpid()}"), writing(store):
            pass
        child = _run(store, "with writing(store): pass", check=False)
        assert "WriterBusy" in child.stderr
    # The lock of a process that was killed is gone with it, though its file stays.
    killed = _run(store, "writing(store).__enter__(); os.kill(os.getpid(), 9)", check=False)
    assert killed.returncode == -9
    publish(store, "one")


def test_rollback_returns_to_the_release_before_or_to_a_named_one(store: ReleaseStore) -> None:
    first, second, third = (publish(store, content) for content in ("one", "two", "three"))
    assert [info.id for info in store.releases()] == [third.id, second.id, first.id]
    assert [info.current for info in store.releases()] == [True, False, False]
    assert rollback(store).id == second.id
    assert rollback(store).id == first.id
    with pytest.raises(ConfigurationError, match="no release before"):
        rollback(store)
    assert rollback(store, store.find(third.id[:10])).id == third.id
    assert store.current_id() == third.id
    with pytest.raises(ConfigurationError, match="More than one"):
        store.find("")
    with pytest.raises(ConfigurationError, match="No release"):
        store.find("nope")


def test_a_clock_that_is_set_back_does_not_change_what_was_before(
    store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Back(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Back:
            return cls(1999, 1, 1, tzinfo=tz)

    first = publish(store, "one").id
    monkeypatch.setattr("services.core.releases.writer.datetime", Back)
    second, third = publish(store, "two").id, publish(store, "three").id
    assert [info.id for info in store.releases()] == [third, second, first]
    assert collect(store, keep=1) == [first]
    assert rollback(store).id == second


def test_rollback_of_what_never_was_creates_nothing(store: ReleaseStore) -> None:
    with pytest.raises(ConfigurationError, match="There is no release in"):
        rollback(store)
    assert not store.root.exists()


def test_rollback_to_a_damaged_release_is_refused_and_changes_nothing(store: ReleaseStore) -> None:
    first, second = publish(store, "one"), publish(store, "two")
    (first.path / "ansel.hnsw").unlink()
    with pytest.raises(ReleaseDamaged, match=r"ansel\.hnsw is missing"):
        rollback(store)
    assert store.current_id() == second.id


def test_rollback_mends_a_damaged_current(store: ReleaseStore) -> None:
    first, second = publish(store, "one"), publish(store, "two")
    (second.path / "manifest.json").unlink()
    assert next(info for info in store.releases() if info.id == second.id).damage
    with pytest.raises(ReleaseDamaged):
        store.current()
    assert rollback(store).id == first.id


def test_collecting_spares_the_current_the_newest_and_those_being_read(store: ReleaseStore) -> None:
    releases = [publish(store, str(number)) for number in range(5)]
    for release in releases:
        release.close()
    read = store.open(releases[0].id)
    rollback(store, releases[1].id).close()
    assert collect(store, keep=1) == [releases[3].id, releases[2].id]
    assert {info.id for info in store.releases()} == {releases[n].id for n in (0, 1, 4)}
    assert text_of(read) == "0"
    del read
    assert collect(store, keep=0) == [releases[4].id, releases[0].id]
    current = store.current()
    assert current is not None
    assert text_of(current) == "1"


def test_a_root_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigurationError, match="cannot be written to"),
        writing(ReleaseStore(tmp_path / "file" / "data")),
    ):
        pass


@pytest.mark.parametrize("fault", [errno.ENOENT, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG])
def test_whatever_a_disk_refuses_is_a_sentence(
    store: ReleaseStore, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    def refuse(path: object, *arguments: object) -> None:
        raise OSError(fault, os.strerror(fault), str(store.root.parent))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(ConfigurationError, match=rf"cannot be written to \({os.strerror(fault)}\)"), writing(store):
        pass


def test_the_faults_of_other_files_are_left_as_they_are(store: ReleaseStore) -> None:
    with pytest.raises(BrokenPipeError), writing(store):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


# The calls by which a writer changes the disk; the child is killed before the n-th of them.
KILLER = """
calls = 0
def counted(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == {moment}:
            os.kill(os.getpid(), 9)
        return function(*args, **kwargs)
    return call
for name in ("fsync", "rename", "replace", "symlink", "mkdir", "chmod", "open", "pwrite"):
    setattr(os, name, counted(getattr(os, name)))
with writing(store) as writer, writer.stage() as folder:
    for name in ("catalogue.sqlite", "ansel.hnsw"):
        with (folder / name).open("w") as file:
            file.write("new")
    writer.publish(folder, space_id="space", counts={{}})
"""


def _run(store: ReleaseStore, code: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    program = f"""
import os
from pathlib import Path
from services.core.releases import ReleaseStore, writing
store = ReleaseStore(Path({str(store.root)!r}))
{textwrap.dedent(code)}
"""
    return subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=_environment(), capture_output=True, text=True, check=check
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'protos'}"}


def test_a_kill_at_any_step_leaves_the_old_release_or_the_new_one(store: ReleaseStore) -> None:
    old = publish(store, "old")
    outcomes = []
    for moment in range(1, 60):
        child = _run(store, KILLER.format(moment=moment), check=False)
        current = store.current()
        assert current is not None
        outcomes.append(text_of(current))
        if child.returncode == 0:
            break
        assert child.returncode == -9, child.stderr
        if current.id != old.id:
            rollback(store, old.id)
    assert child.returncode == 0, "the last run was killed nowhere"
    assert outcomes[0] == "old"
    assert outcomes[-1] == "new"
    assert set(outcomes) == {"old", "new"}
    # One successful run later nothing of the interrupted ones is left.
    assert list(store.staging.iterdir()) == []
    assert all(not store.verify(info.id) for info in store.releases())


# Following


def loaded(release: Release) -> tuple[str, Release]:
    return text_of(release), release


async def test_a_watcher_has_nothing_until_the_first_release(store: ReleaseStore) -> None:
    watcher = ReleaseWatcher(store, loaded, poll_s=3600)
    await watcher.start()
    try:
        with pytest.raises(NoRelease, match="mondrian precompute"):
            _ = watcher.value
        published = publish(store, "one")
        assert await watcher.refresh()
        assert watcher.value[0] == "one"
        assert watcher.release_id == published.id
        assert not await watcher.refresh(), "what is served already is not loaded again"
    finally:
        await watcher.stop()


async def test_a_watcher_notices_by_itself(store: ReleaseStore) -> None:
    swapped: asyncio.Queue[object] = asyncio.Queue()
    watcher = ReleaseWatcher(store, loaded, poll_s=0.01, on_swap=swapped.put_nowait)
    await watcher.start()
    try:
        publish(store, "one")
        assert await asyncio.wait_for(swapped.get(), 10) is None
        publish(store, "two")
        old = await asyncio.wait_for(swapped.get(), 10)
        assert isinstance(old, tuple)
        assert old[0] == "one"
        assert watcher.value[0] == "two"
    finally:
        await watcher.stop()


async def test_a_refused_release_leaves_the_old_value_and_is_looked_at_again_when_mended(
    store: ReleaseStore, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, "one")
    watcher = ReleaseWatcher(store, loaded, poll_s=3600)
    await watcher.start()
    try:
        second = publish(store, "two")
        path = second.path / "catalogue.sqlite"
        path.chmod(0o644)
        path.write_text("twX")
        assert not await watcher.refresh()
        assert watcher.value[0] == "one"
        assert "catalogue.sqlite differs from its sha256" in caplog.text
        caplog.clear()
        assert not await watcher.refresh()
        assert caplog.text == "", "said once"
        path.unlink()
        path.write_text("two")
        assert await watcher.refresh()
        assert watcher.value[0] == "two"
    finally:
        await watcher.stop()


class Verified(ReleaseStore):
    """Tells when it was asked to verify."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked = threading.Semaphore(0)

    def verify(self, release_id: str) -> list[str]:
        self.asked.release()
        return super().verify(release_id)


async def test_a_byte_that_changes_under_a_served_release_is_noticed_and_the_value_stays(
    store: ReleaseStore, caplog: pytest.LogCaptureFixture
) -> None:
    published = publish(store, "one")
    watched = Verified(store.root)
    watcher = ReleaseWatcher(watched, loaded, poll_s=0.01, verify_s=0.01)
    assert await watcher.verify() == []
    await watcher.start()
    try:
        assert await watcher.verify() == []
        assert next(iter(RELEASE_DAMAGED.collect())).samples[0].value == 0
        path = published.path / "ansel.hnsw"
        path.chmod(0o644)
        path.write_bytes(b"twO" * 3)
        # By itself: the second question after the change began after it.
        for _ in range(3):
            assert await asyncio.to_thread(watched.asked.acquire, timeout=30)
        (problem,) = await watcher.verify()
        assert "ansel.hnsw differs from its sha256" in problem
        assert problem in caplog.text
        assert next(iter(RELEASE_DAMAGED.collect())).samples[0].value == 1
        assert watcher.value[0] == "one"
    finally:
        await watcher.stop()
        RELEASE_DAMAGED.set(0)


async def test_what_load_refuses_or_breaks_on_is_not_served(store: ReleaseStore) -> None:
    def picky(release: Release) -> str:
        text = text_of(release)
        if text == "other space":
            raise ConfigurationError("It was computed in another space.")
        if text == "broken":
            raise RuntimeError("not foreseen")
        return text

    publish(store, "other space")
    with pytest.raises(ConfigurationError, match="another space"):
        await ReleaseWatcher(store, picky).start()
    publish(store, "one")
    watcher = ReleaseWatcher(store, picky, poll_s=3600)
    await watcher.start()
    try:
        for text in ("other space", "broken"):
            publish(store, text)
            assert not await watcher.refresh()
            assert watcher.value == "one"
        publish(store, "two")
        assert await watcher.refresh()
        assert watcher.value == "two"
    finally:
        await watcher.stop()


async def test_a_reader_keeps_its_release_through_swaps_and_collections(store: ReleaseStore) -> None:
    publish(store, "0").close()
    watcher = ReleaseWatcher(store, loaded, poll_s=3600)
    await watcher.start()
    try:
        text, release = watcher.value
        for number in range(1, 21):
            publish(store, str(number)).close()
            assert await watcher.refresh()
            collect(store, keep=0)
        assert text_of(release) == text == "0"
        assert watcher.value[0] == "20"
        assert {info.id for info in store.releases()} == {release.id, watcher.release_id}
        del release
        collect(store, keep=0)
        assert [info.id for info in store.releases()] == [watcher.release_id]
    finally:
        await watcher.stop()
