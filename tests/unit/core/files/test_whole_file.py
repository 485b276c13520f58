"""A file is written whole or not at all, whatever stops it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from services.core.errors import ConfigurationError
from services.core.files.whole_file import write_whole


def test_a_file_is_replaced_with_the_permissions_of_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "tables.json"
    for content in (b"old", b"new"):
        write_whole(path, content)
        assert path.read_bytes() == content
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(each.name for each in tmp_path.iterdir()) == ["plain", "tables.json"]


def test_what_a_link_leads_to_is_written_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "there")
    write_whole(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_bytes() == b"x"


def test_a_device_stays_one() -> None:
    write_whole(Path(os.devnull), b"x")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (KeyboardInterrupt(), pytest.raises(KeyboardInterrupt)),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            pytest.raises(ConfigurationError, match=r"/tables.json cannot be written \(No space left on device\)"),
        ),
    ],
)
def test_what_stops_it_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, raised: pytest.RaisesExc[BaseException]
) -> None:
    def stopped(*arguments: object) -> None:
        raise fault

    path = tmp_path / "tables.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", stopped)
    with raised:
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["tables.json"]
