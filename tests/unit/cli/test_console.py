"""How the command line speaks: faults are one sentence, tables fit the terminal."""

from __future__ import annotations

import errno
import io
import os

import pytest
from rich.console import Console
from typer.testing import CliRunner

from services.cli.commands import app
from services.cli.console import listing


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


def test_a_narrow_terminal_cuts_nothing_of_a_table() -> None:
    table = listing("Service", "Release", "Published (UTC)", "References", "MiB", "", numbers=("MiB",))
    table.add_row("embedder", "100b86bfe3f1", "2026-11-26 14:41:42", "ansel 27, okeefe 27", "1.2", "current")
    console = Console(file=io.StringIO(), width=60)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "…" not in shown
    for words in ("embedder", "100b86bfe3f1", "2026-11-26", "14:41:42", "okeefe", "current", "References"):
        assert words in shown
    assert max(map(len, shown.splitlines())) <= 60
