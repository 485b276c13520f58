"""Output: possible wherever it goes, and no longer than somebody reads it unless the command has more to do."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest
from typer.testing import CliRunner

from services.cli.commands import app
from services.cli.console import any_streams, going_on_unread, out


def test_closed_streams_lose_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    any_streams()
    out().print("nobody sees this")
    print("nor this", file=sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        stream.close()


def test_a_character_that_the_terminal_lacks_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    any_streams()
    out().print("A · B")
    sys.stdout.flush()
    assert written.getvalue() == b"A ? B\n"


def test_what_nobody_reads_is_lost_and_the_command_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as left:
        monkeypatch.setattr(sys, "stdout", left)
        with going_on_unread():
            for _ in range(2):
                out().print("x" * 100_000)
                print("y", flush=True)
        assert sys.stdout is left


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "free some space"), (errno.ENOTTY, "fault of the command line itself")]
)
def test_a_full_disk_is_no_fault_of_the_command_line(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("services.cli.doctor.examine", lambda _: fail())
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert words in line
