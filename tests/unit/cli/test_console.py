"""Whatever goes wrong below the commands becomes one sentence."""

from __future__ import annotations

import errno
import os

import pytest
from typer.testing import CliRunner

from services.cli.commands import app


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
