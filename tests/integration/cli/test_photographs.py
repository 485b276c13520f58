"""Photographs that cannot be analysed: each is one sentence, and the others go on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.core.errors import InvalidImage
from tests.fakes.answers import picture
from tests.integration.cli.stage import Stage, flat


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
        (lambda path: path.write_bytes(b"plain text"), "cannot be decoded"),
        (os.mkfifo, "is empty (0 bytes)"),
    ],
    ids=["missing", "folder", "empty", "text", "a pipe that nobody writes into"],
)
def test_a_bad_photograph_is_one_sentence_and_the_others_go_on(
    stage: Stage, photograph: Path, tmp_path: Path, make: Callable[[Path], Any], words: str
) -> None:
    bad = tmp_path / "bad.jpg"
    make(bad)
    alone = stage.run("analyze", bad, "-a", "ansel")
    assert alone.exit_code == 1
    assert alone.stdout == ""
    [line] = alone.stderr.splitlines()
    assert line.startswith("mondrian: ")
    assert str(bad) in line
    assert words in line
    both = stage.run("analyze", bad, photograph, "-a", "ansel", "-m", "clip")
    assert both.exit_code == 1
    assert "Moon over the ridge" in both.stdout
    assert len(both.stderr.splitlines()) == 1


def test_names_that_are_no_text_are_told_by_escapes_wherever_they_are_told(
    stage: Stage, photograph: Path, tmp_path: Path
) -> None:
    odd, bad = (Path(os.fsdecode(os.fsencode(tmp_path) + name)) for name in (b"/\xff\n\x1b[31m.jpg", b"/\xfe\n.txt"))
    odd.write_bytes(photograph.read_bytes())
    bad.write_text("no photograph")
    report = tmp_path / "report.html"
    result = stage.run("analyze", odd, bad, "-a", "ansel", "-m", "clip", "--json", "--report", report)
    assert result.exit_code == 1
    documents = json.loads(result.stdout)
    names = [rf"{tmp_path}/\xff\n\x1b[31m.jpg", rf"{tmp_path}/\xfe\n.txt"]
    assert [document["key"] for document in documents] == names
    assert documents[1]["status"]["message"].startswith(names[1])
    [complaint, _] = result.stderr.splitlines()
    assert names[1] in complaint
    assert r"\xff\n\x1b[31m.jpg" in report.read_text()
    alone = stage.run("analyze", odd, "-a", "ansel", "-m", "clip", "--stream")
    assert r"\xff\n\x1b[31m.jpg" in alone.stdout


def test_a_photograph_beyond_the_message_limit_is_not_sent(stage: Stage, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(300 * 1024 * 1024)
    result = stage.run("analyze", large, "-a", "ansel")
    assert result.exit_code == 1
    assert "300.0 MiB, more than the 15 MiB" in result.stderr
    assert stage.system.embedder.requests == []


def test_a_photograph_just_within_the_limit_is_sent(stage: Stage, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(picture() + bytes(15 * 1024 * 1024 - len(picture())))
    assert stage.run("analyze", large, "-a", "ansel", "-m", "clip").exit_code == 0


def test_a_service_that_refuses_the_photograph_is_quoted_with_the_file(stage: Stage, photograph: Path) -> None:
    stage.system.embedder.failure = InvalidImage("The photograph is cut off.", reason="IMAGE_TRUNCATED")
    result = stage.run("analyze", photograph, "-a", "ansel", "-m", "clip")
    assert result.exit_code == 1
    assert flat(result.stderr) == f"mondrian: {photograph}: The photograph is cut off."
