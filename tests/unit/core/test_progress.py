"""What a long command prints: a bar for a person, few lines for a log, nothing when quiet."""

from __future__ import annotations

import io

import pytest

from services.core.progress import PLAIN_STEPS, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("total", [1, 3, 10, 997])
def test_prints_few_lines_without_a_terminal(total: int) -> None:
    stream = io.StringIO()
    with progress("Embedding", total, stream=stream) as bar:
        for _ in range(total):
            bar.advance()
    lines = stream.getvalue().splitlines()
    assert len(lines) == min(total, PLAIN_STEPS)
    assert lines[-1].startswith(f"Embedding: {total} of {total} (")


def test_prints_sentences_as_they_are() -> None:
    for stream in (io.StringIO(), Terminal()):
        with progress("Scoring", 2, stream=stream) as bar:
            bar.say(f"broken[1] :camera: {'long ' * 20}.jpg is skipped: it is cut off.")
        assert f"broken[1] :camera: {'long ' * 20}.jpg is skipped: it is cut off." in stream.getvalue()


def test_shows_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    with progress("Scoring", 4, stream=stream) as bar:
        bar.advance(4)
    assert "4/4" in stream.getvalue()


def test_prints_nothing_when_quiet() -> None:
    stream = Terminal()
    with progress("Scoring", 4, stream=stream, quiet=True) as bar:
        bar.advance(4)
        bar.say("A sentence.")
    assert stream.getvalue() == ""


def test_nothing_to_do_is_no_error() -> None:
    stream = io.StringIO()
    with progress("Embedding", 0, stream=stream) as bar:
        bar.advance(0)
    assert stream.getvalue() == ""
