"""A command that was called wrongly is told so in one sentence, as everything else that can go wrong."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from services.cli.commands import app


@pytest.mark.parametrize(
    ("words", "named", "help_of"),
    [
        (["analyze", "photo.jpg", "-a", "ansel", "--mode", "foo"], "'foo' is not one of", "mondrian analyze --help"),
        (["analyze", "photo.jpg", "-a", "ansel", "--top-k", "0"], "'--top-k'", "mondrian analyze --help"),
        (["analyze", "photo.jpg"], "'--advisor'", "mondrian analyze --help"),
        (["analyze", "--nope"], "--nope", "mondrian analyze --help"),
        (["nope"], "'nope'", "mondrian --help"),
        (["--nope"], "--nope", "mondrian --help"),
        (["releases", "nope"], "'nope'", "mondrian releases --help"),
    ],
)
def test_wrong_use_is_one_sentence(words: list[str], named: str, help_of: str) -> None:
    result = CliRunner().invoke(app, words, prog_name="mondrian")
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("mondrian: ")
    assert named in line
    assert "Value error" not in line
    assert help_of in line


def test_no_words_at_all_show_the_help() -> None:
    result = CliRunner().invoke(app, [], prog_name="mondrian")
    assert "analyze" in result.output
    assert "--help" in result.output
