"""Precompute against the world: killed, out of disk, beside another one. What was said done stays done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.core.releases import ReleaseStore, collect, rollback
from services.embedder import precompute
from tests.fakes.encoder import FakeEncoder
from tests.pictures import advisor_folder

REPOSITORY = Path(__file__).resolve().parents[2]


def command(module: str, *arguments: str) -> str:
    """Returns what a command of tests.load prints; its processes fork, which those of a test run must not."""
    path = os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "protos")))
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_kills_at_random_instants_lose_nothing() -> None:
    """A short form of `python -m tests.load.kill_precompute`, which does it 200 times."""
    printed = command("tests.load.kill_precompute", "--times", "12", "--photographs", "40", "--seed", "7")
    assert printed.startswith("12 kills")


def test_nothing_broken_is_served_and_nothing_intact_is_lost() -> None:
    """A short form of `python -m tests.load.break_releases`, which changes every byte in turn."""
    printed = command("tests.load.break_releases", "--every", "300", "--rounds", "4")
    assert len(printed.splitlines()) == 5
    assert "each refused in one sentence" in printed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small disk is not permitted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def run(folder: Path, data: Path) -> int:
    arguments = ["--advisor-dir", str(folder), "--data-dir", str(data), "--quiet"]
    return precompute.run(arguments, make_encoder=lambda settings: FakeEncoder(dimensions=512))


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk is filled a little more each time, so that every step of precompute meets its end."""
    assert run(advisor_folder(tmp_path / "first", range(5)), small_disk) == 0
    store = ReleaseStore(small_disk / "embedder")
    before = store.current_id()
    folder = advisor_folder(tmp_path / "second", range(5, 45))
    filler = small_disk / "filler"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    capsys.readouterr()
    codes = []
    for left in range(0, free, 96 * 1024):
        filler.write_bytes(bytes(free - left))
        codes.append(run(folder, small_disk))
        printed = capsys.readouterr()
        filler.unlink()
        current = store.current()
        assert current is not None
        if codes[-1] == 0:
            assert current.manifest.counts == {"first": 5, "second": 40}
            rollback(store, before)
            collect(store, 0)
            continue
        assert codes[-1] == 2
        assert printed.err.count("\n") == 1, printed.err
        assert printed.err.startswith("mondrian: ")
        assert "full" in printed.err
        assert current.id == before
    assert codes[0] == 2
    assert run(folder, small_disk) == 0
    current = store.current()
    assert current is not None
    assert current.manifest.counts == {"first": 5, "second": 40}
    assert store.verify(current.id) == []
