"""Writing releases: one writer, nothing unfinished is served, whatever the disk or a kill does."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from datetime import datetime, tzinfo
from pathlib import Path

import pytest

from services.core.errors import ConfigurationError, ReleaseDamaged, WriterBusy
from services.core.releases import Release, ReleaseStore, collect, rollback, writing
from tests.unit.core.releases.stores import publish, text_of

REPOSITORY = Path(__file__).resolve().parents[4]


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


def test_rollback_passes_over_what_is_damaged_and_says_what_is_left_to_do(store: ReleaseStore) -> None:
    first, second, third = (publish(store, content) for content in ("one", "two", "three"))

    def damage(release: Release) -> None:
        release.close()
        path = release.file("ansel.hnsw")
        path.chmod(0o644)
        path.write_bytes(b"other")

    damage(second)
    assert rollback(store).id == first.id
    rollback(store, third.id)
    damage(first)
    with pytest.raises(ConfigurationError, match=r"No release before the current one in .* is sound; pre-compute"):
        rollback(store)
    assert store.current_id() == third.id
    # A named one is not passed over in silence.
    with pytest.raises(ReleaseDamaged, match=r"ansel\.hnsw differs"):
        rollback(store, second.id)
    assert store.current_id() == third.id


def test_rollback_where_the_one_release_is_damaged_says_how_to_go_on(store: ReleaseStore) -> None:
    (publish(store, "one").path / "manifest.json").unlink()
    with pytest.raises(ConfigurationError, match=r"no release before the current one.*; pre-compute an advisor"):
        rollback(store)


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
