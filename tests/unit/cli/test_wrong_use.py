"""A command that was called wrongly is told so in one sentence, as everything else that can go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from services.cli.commands import app


@pytest.mark.parametrize(
    ("words", "named", "help_of"),
    [
        (["analyze", "photo.jpg", "-a", "ansel", "--mode", "foo"], "'foo' is not one of", "mondrian analyze --help"),
        (["analyze", "photo.jpg", "-a", "ansel", "--top-k", "0"], "'--top-k'", "mondrian analyze --help"),
        (["analyze", "photo.jpg", "-a", "ansel", "--timeout", "inf"], "'--timeout'", "mondrian analyze --help"),
        (["analyze", "photo.jpg", "-a", "ansel", "--max-tokens", "3000000000"], "'--max-tokens'", "analyze --help"),
        (["analyze", "photo.jpg"], "'--advisor'", "mondrian analyze --help"),
        (["analyze", "--nope"], "--nope", "mondrian analyze --help"),
        (["nope"], "'nope'", "mondrian --help"),
        (["--nope"], "--nope", "mondrian --help"),
        (["releases", "nope"], "'nope'", "mondrian releases --help"),
        (["releases", "rollback"], "'SERVICE'. Choose from: embedder, scorer", "mondrian releases rollback --help"),
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


@pytest.mark.parametrize("option", ["--instruction", "--address"])
def test_words_that_are_no_text_are_named(option: str) -> None:
    result = CliRunner().invoke(app, ["analyze", "photo.jpg", "-a", "ansel", option, "\udcff"], prog_name="mondrian")
    assert result.exit_code == 2
    assert result.stderr == f"mondrian: What stands behind {option} is no text in UTF-8; write it anew.\n"


def test_no_words_at_all_show_the_help() -> None:
    result = CliRunner().invoke(app, [], prog_name="mondrian")
    assert "analyze" in result.output
    assert "--help" in result.output


def words_of_commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the words of a command and of all below it."""
    yield words
    for name, below in getattr(command, "commands", {}).items():
        yield from words_of_commands(below, (*words, name))


@pytest.mark.parametrize("words", [*words_of_commands(typer.main.get_command(app))], ids=" ".join)
def test_a_help_is_whole_on_eighty_columns(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, [*words, "--help"], prog_name="mondrian")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "..." not in result.stdout.replace("COMMAND [ARGS]...", "").replace("{PHOTO}...", "")
    assert "<bool>" not in result.stdout
    assert "  --help " in result.stdout
