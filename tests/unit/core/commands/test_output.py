"""Output: possible wherever it goes, and lost where nobody reads it any more."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from services.core.commands.output import any_streams, going_on_unread
from services.core.commands.precompute import run_command


def test_closed_streams_lose_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    any_streams()
    print("nobody sees this")
    print("nor this", file=sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        stream.close()


def test_a_character_that_the_terminal_lacks_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    any_streams()
    print("A · B")
    sys.stdout.flush()
    assert written.getvalue() == b"A ? B\n"


def test_a_file_that_became_a_pipe_is_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with (tmp_path / "log").open("w", encoding="utf-8") as stream, open(reading, encoding="utf-8") as reader:
        stream.write("before\n")
        stream.flush()
        os.dup2(writing, stream.fileno())
        os.close(writing)
        monkeypatch.setattr(sys, "stdout", stream)
        any_streams()
        print("after", flush=True)
        assert reader.readline() == "after\n"


def test_what_nobody_reads_is_lost_and_the_command_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as left:
        monkeypatch.setattr(sys, "stdout", left)
        with going_on_unread():
            for _ in range(2):
                print("x" * 100_000)
                print("y", flush=True)
        assert sys.stdout is left


def test_a_precompute_ends_well_though_nobody_reads_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as left:
        monkeypatch.setattr(sys, "stdout", left)
        code = run_command("module", "What it does.", lambda _: ["x" * 100_000, "done"], ["--advisor-dir", "x"])
    assert (code, capsys.readouterr().err) == (0, "")
