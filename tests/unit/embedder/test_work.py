"""What is kept survives the process, and what a disk has changed is not believed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np

from services.core.errors import ConfigurationError
from services.embedder.records import Photograph
from services.embedder.work import Work

REPOSITORY = Path(__file__).resolve().parents[3]


def photograph(number: int) -> Photograph:
    vector = np.zeros(8, np.float32)
    vector[number % 8] = 1.0
    return Photograph(f"{number:064x}", 30, 20, vector, b"thumbnail" * number)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    work = Work(tmp_path, "space", 8)
    assert work.get(photograph(1).id) is None
    work.put([photograph(1), photograph(2)])
    work.close()
    again = Work(tmp_path, "space", 8)
    found = again.get(photograph(2).id)
    assert found is not None
    assert (found.width, found.height, found.thumbnail) == (30, 20, b"thumbnail" * 2)
    np.testing.assert_array_equal(found.embedding, photograph(2).embedding)
    again.close()


def test_vectors_of_two_spaces_never_meet(tmp_path: Path) -> None:
    first, second = Work(tmp_path, "space", 8), Work(tmp_path, "other", 8)
    first.put([photograph(1)])
    assert second.get(photograph(1).id) is None
    first.close()
    second.close()


def test_what_was_put_survives_a_kill(tmp_path: Path) -> None:
    program = f"""
import os
from pathlib import Path
from services.embedder.work import Work
from tests.unit.embedder.test_work import photograph
work = Work(Path({str(tmp_path)!r}), "space", 8)
for number in range(5):
    work.put([photograph(number)])
work._database.execute("BEGIN")
work._database.execute("DELETE FROM finished")
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'protos'}"}
    child = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, env=environment, check=False)
    assert child.returncode == -9
    work = Work(tmp_path, "space", 8)
    assert all(work.get(photograph(number).id) is not None for number in range(5))
    work.close()


def test_a_changed_row_is_not_believed(tmp_path: Path) -> None:
    work = Work(tmp_path, "space", 8)
    work.put([photograph(1), photograph(2)])
    work.close()
    database = sqlite3.connect(tmp_path / "space.sqlite")
    wrong = np.zeros(8, "<f4")
    wrong[5] = 1.0
    database.execute("UPDATE finished SET embedding = ? WHERE id = ?", (wrong.tobytes(), photograph(1).id))
    database.commit()
    database.close()
    work = Work(tmp_path, "space", 8)
    assert work.get(photograph(1).id) is None
    assert work.get(photograph(2).id) is not None
    work.close()


def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "space.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 100)
    work = Work(tmp_path, "space", 8)
    work.put([photograph(1)])
    assert work.get(photograph(1).id) is not None
    work.close()


def test_what_a_release_holds_is_forgotten_and_the_rest_is_kept(tmp_path: Path) -> None:
    work = Work(tmp_path, "space", 8)
    work.put([photograph(1), photograph(2)])
    work.forget([photograph(1).id])
    work = Work(tmp_path, "space", 8)
    assert work.get(photograph(1).id) is None
    assert work.get(photograph(2).id) is not None
    work.forget([photograph(2).id])
    assert list(tmp_path.iterdir()) == []


def test_no_damaged_byte_is_believed_or_ends_in_anything_but_a_sentence(tmp_path: Path) -> None:
    work = Work(tmp_path, "space", 8)
    work.put([photograph(1), photograph(2)])
    work.close()
    path = tmp_path / "space.sqlite"
    sound = path.read_bytes()
    said: list[str] = []
    for place in range(0, len(sound), 13):
        for leftover in tmp_path.iterdir():
            leftover.unlink()
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x80]) + sound[place + 1 :])
        try:
            damaged = Work(tmp_path, "space", 8)
            found = [damaged.get(photograph(number).id) for number in (1, 2)]
            damaged.put([photograph(3)])
            damaged.close()
        except ConfigurationError as error:
            said.append(str(error))
            continue
        for number, one in enumerate(found, 1):
            assert one is None or repr(one) == repr(photograph(number))
    assert len(said) < len(sound) // 13
    assert all("\n" not in sentence for sentence in said)
