"""Ratings read from CSV files, and what is wrong with those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.core.errors import ConfigurationError
from services.scorer import ratings
from services.scorer.dimensions import NAMES


def _read(tmp_path: Path, text: str) -> ratings.Ratings:
    path = tmp_path / "ratings.csv"
    path.write_text(text, encoding="utf-8")
    return ratings.read(path)


def test_several_lines_of_a_file_are_averaged_and_empty_cells_are_no_rating(tmp_path: Path) -> None:
    found = _read(
        tmp_path,
        "\ufefffile,lighting,composition,group,remark\na.jpg,1,,jane,\na.jpg,4,7,jane,good\nb.jpg,,3,,\n",
    )
    assert found.files == ("a.jpg", "b.jpg")
    assert found.groups == ("jane", "b.jpg")
    assert found.ignored == ("remark",)
    by_name = dict(zip(NAMES, found.values.T, strict=True))
    np.testing.assert_array_equal(by_name["lighting"], [2.5, np.nan])
    np.testing.assert_array_equal(by_name["composition"], [7, 3])
    assert np.isnan(by_name["emotional_impact"]).all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no column file .it has: nothing"),
        ("photo,lighting\n", "has no column file .it has: photo, lighting"),
        ("file,beauty\na.jpg,1\n", "no column named like a dimension: composition, lighting"),
        ("file,lighting\n", "no line below its first"),
        ("file,lighting\na.jpg,good\n", "Line 2 .*'good' in column lighting is no number"),
        ("file,lighting\na.jpg,1\nb.jpg,nan\n", "Line 3 .*'nan' in column lighting is no number"),
        ("file,lighting\n,1\n", "Line 2 .* names no file"),
        ('file,lighting\n\n"a.jpg",1\n\nb.jpg,good\n', "Line 5 .*'good' in column lighting is no number"),
        ("file,lighting,group\na.jpg,1,x\na.jpg,1,y\n", "Line 3 .* puts a.jpg into a second group, y"),
        ("file,lighting\n\udcff\n", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "ratings.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigurationError, match=sentence):
        ratings.read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ratings\.csv cannot be read"):
        ratings.read(tmp_path / "ratings.csv")


def test_missing_photographs_are_counted_and_named(tmp_path: Path) -> None:
    found = _read(tmp_path, "file,lighting\n" + "".join(f"{name}.jpg,1\n" for name in "abcde"))
    (tmp_path / "c.jpg").touch()
    sentence = r"4 of 5 rated photographs are not below .*: a\.jpg, b\.jpg, d\.jpg, \.\.\."
    with pytest.raises(ConfigurationError, match=sentence):
        found.paths(tmp_path)
    for name in "abde":
        (tmp_path / f"{name}.jpg").touch()
    assert [path.name for path in found.paths(tmp_path)] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
