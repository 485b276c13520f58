"""An answer on the terminal while it comes in: tables when they are ready, the critique word by word."""

from __future__ import annotations

from collections.abc import Callable

from mondrian.critic.v1 import critic_pb2
from mondrian.gateway.v1 import gateway_pb2
from rich.cells import cell_len
from rich.console import Console

from services.cli.console import plain
from services.cli.show import (
    show_completion,
    show_critique,
    show_critique_heading,
    show_failure,
    show_footer,
    show_references,
    show_scores,
    show_summary,
)


class Flow:
    """Text that comes in pieces, printed word by word in lines that fit the console, as `show_critique` prints it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._word = ""
        self._filled = 0

    def write(self, text: str) -> None:
        """Prints the words that have ended; the last one waits for its end."""
        for character in text:
            if not character.isspace():
                self._word += character
                continue
            self._end_word()
            if character == "\n":
                self._end_line()
        self._console.file.flush()

    def end(self) -> None:
        """Prints the last word, and ends the line."""
        self._end_word()
        self._end_line()

    def _end_word(self) -> None:
        if not self._word:
            return
        cells = 1 + cell_len(self._word)
        if self._filled + cells > self._console.width - 1:
            self._end_line()
        # At the beginning of a line the space is the margin.
        self._console.file.write(f" {self._word}")
        self._filled += cells
        self._word = ""

    def _end_line(self) -> None:
        if self._filled:
            self._console.file.write("\n")
            self._filled = 0


class LiveAnswer:
    """Prints the events of one answer. What becomes ready while the critique is being written waits for its end.

    `as_written`: the critique is printed as it comes; else at its end, by section.
    """

    def __init__(self, console: Console, advisor: str, *, as_written: bool = True) -> None:
        self._console = console
        self._advisor = advisor
        self._as_written = as_written
        self._writing = False
        self._flow = Flow(console)
        self._waiting: list[Callable[[], None]] = []

    def __call__(self, event: gateway_pb2.StreamAnalyzeResponse) -> None:
        """Prints an event, or keeps it until the critique has ended."""
        kind = event.WhichOneof("event")
        if kind == "critique_started":
            show_critique_heading(self._console, event.critique_started.authorship)
            self._writing = True
        elif kind == "critique_delta" and self._as_written:
            self._flow.write(plain(event.critique_delta.text))
        elif kind == "critique_completed":
            if not self._as_written:
                show_critique(self._console, critic_pb2.CritiqueResponse(sections=event.critique_completed.sections))
            self._end_writing()
            show_completion(self._console, event.critique_completed.completion)
        elif kind == "references":
            self._when_free(lambda: show_references(self._console, event.references))
        elif kind == "scores":
            self._when_free(lambda: show_scores(self._console, event.scores, self._advisor))
        elif kind == "failure":
            if event.failure.part == gateway_pb2.PART_CRITIQUE:
                self._end_writing()
            self._when_free(lambda: show_failure(self._console, event.failure))
        elif kind == "completed":
            self._end_writing()
            show_summary(self._console, event.completed)
            show_footer(self._console, event.completed)

    def close(self) -> None:
        """Ends a line that was left open, and prints what still waits."""
        self._end_writing()

    def _when_free(self, show: Callable[[], None]) -> None:
        if self._writing:
            self._waiting.append(show)
        else:
            show()

    def _end_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._flow.end()
        for show in self._waiting:
            show()
        self._waiting.clear()
