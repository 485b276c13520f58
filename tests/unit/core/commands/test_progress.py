"""What a long command prints: a bar for a person, few lines for a log, nothing when quiet."""

from __future__ import annotations

import io

import pytest

from services.core.commands.progress import PLAIN_S, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("each_s", "count"), [(0.001, 1), (PLAIN_S / 10, 10), (PLAIN_S / 4, 25), (3 * PLAIN_S, 100)])
def test_without_a_terminal_a_line_now_and_then_shows_that_work_goes_on(each_s: float, count: int) -> None:
    stream, done = io.StringIO(), 0
    with progress("Embedding", 100, stream=stream, clock=lambda: done * each_s) as bar:
        for _ in range(100):
            done += 1
            bar.advance()
    lines = stream.getvalue().splitlines()
    assert len(lines) == count
    assert lines[-1] == f"Embedding: 100 of 100 ({100 * each_s:.1f} s)"


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
