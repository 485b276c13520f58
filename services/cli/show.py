"""An answer on the terminal: similar references, the eight scores beside the advisor's, the critique, what failed."""

from __future__ import annotations

from typing import Final, Literal

from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.scorer.v1 import scorer_pb2
from rich.box import SIMPLE
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from services.cli.console import plain
from services.cli.wording import (
    by_whom,
    critique_sections,
    dimension_name,
    failure_sentence,
    gap,
    how_written,
    ordinal,
    signed,
    similarity,
    similarity_percent,
    sources,
    summary,
    teaches,
    timings,
    weakest_first,
    when_and_where,
)

SCORE_CELLS: Final = 20
"""How many characters stand for ten points."""
SIMILARITY_CELLS: Final = 12
SCALE: Final = "0         5        10"
MARKED_SCALE: Final = "0   │ is the mean  10"
NUMBERS: Final = frozenset({"Score", "Mean", "Gap", "Percentile"})
NARROW, WIDE = 74, 100
"""Terminals narrower than the first show no bars; from the second on, percentile and best reference are shown too."""


def show_title(console: Console, photograph: str, advisor: str, mode: str) -> None:
    """Prints which photograph is judged, and how."""
    console.print(Rule(Text(plain(f"{photograph}  ·  {advisor}  ·  {mode}"), style="bold"), style="blue"))


def show_answer(console: Console, response: gateway_pb2.AnalyzeResponse, advisor: str) -> None:
    """Prints a whole answer."""
    show_summary(console, response)
    if response.HasField("references"):
        show_references(console, response.references)
    if response.HasField("scores"):
        show_scores(console, response.scores, advisor)
    if response.HasField("critique"):
        show_critique_heading(console, response.critique.authorship)
        show_critique(console, response.critique)
        show_completion(console, response.critique.completion)
    for failure in response.failures:
        show_failure(console, failure)
    show_footer(console, response)


def show_summary(console: Console, response: gateway_pb2.AnalyzeResponse) -> None:
    """Prints the sentences that sum an answer up, where they say more than its one part does."""
    if sentences := summary(response):
        console.print(Padding(Text(plain(sentences), style="bold"), (1, 1, 0, 1)))


def show_references(console: Console, found: embedder_pb2.SearchReferencesResponse) -> None:
    """Prints the nearest references as a table, nearest first."""
    _heading(console, "Similar references")
    if not found.neighbors:
        console.print(Padding(Text("The advisor has no reference photograph."), (0, 1)))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    for neighbor in found.neighbors:
        reference = neighbor.reference
        details = [when_and_where(reference), f"teaches {teaches(reference)}" if reference.best_for else ""]
        bar = [_bar(similarity_percent(neighbor) / 100, SIMILARITY_CELLS, "blue")] if console.width >= NARROW else []
        table.add_row(
            Text(similarity(neighbor), style="bold"),
            *bar,
            Text(plain(reference.title), style="bold"),
            Text(plain(" · ".join(detail for detail in details if detail)), style="dim"),
        )
    console.print(Padding(table, (0, 1)))


def show_scores(console: Console, scores: scorer_pb2.ScoreResponse, advisor: str) -> None:
    """Prints the eight scores as bars with a mark at the advisor's mean, then what was seen and what to try."""
    grade = f", grade {scores.grade}" if scores.grade else ""
    monochrome = ", judged as a monochrome" if scores.monochrome else ""
    _heading(console, f"Scores: {scores.overall:.1f} of 10{grade}{monochrome}")
    columns = _columns(console.width, any(score.HasField("comparison") for score in scores.dimensions))
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1), header_style="dim", show_edge=False)
    for column in columns:
        heading = plain(advisor) if column == "Mean" and len(advisor) <= 12 else column
        justify: Literal["left", "right"] = "right" if column in NUMBERS else "left"
        # Only the titles give way where the terminal is narrow; a number is never cut.
        table.add_column(heading, justify=justify, no_wrap=column != "Best reference", overflow="ellipsis")
    for score in scores.dimensions:
        table.add_row(*_score_row(score, columns))
    console.print(Padding(table, (0, 1, 1, 1)))
    _evidence(console, scores)
    if scores.note:
        console.print(Padding(Text(plain(scores.note), style="yellow"), (0, 1)))
    lacking = weakest_first(scores)
    if lacking:
        _heading(console, "What to work on")
    for score in lacking:
        examples = ", ".join(f"“{example.title}” ({example.score:.1f})" for example in score.comparison.examples)
        line = Text.assemble((f"{dimension_name(score.dimension)}: ", "bold"), plain(score.comparison.advice))
        if examples:
            line.append(plain(f" See {examples}."))
        console.print(Padding(line, (0, 1)))


def show_critique_heading(console: Console, authorship: critic_pb2.Authorship) -> None:
    """Prints the heading of a critique and who writes it; a base model instead of an adapter is said plainly."""
    _heading(console, "Critique", plain(by_whom(authorship)))
    if authorship.fell_back:
        reason = authorship.fallback_reason or "The advisor has no adapter, so the base model answers."
        console.print(Padding(Text(plain(reason), style="yellow"), (0, 1)))


def show_critique(console: Console, critique: critic_pb2.CritiqueResponse) -> None:
    """Prints what a critique says: as it was written, or by section where it is divided."""
    for heading, points in critique_sections(critique):
        if heading:
            console.print(Padding(Text(heading, style="bold"), (0, 1)))
        for point in points:
            console.print(Padding(Text(plain(point)), (0, 1, 0, 3 if heading else 1)))


def show_completion(console: Console, completion: critic_pb2.Completion) -> None:
    """Prints how a critique was written."""
    console.print(Padding(Text(how_written(completion), style="dim"), (0, 1)))


def show_failure(console: Console, failure: gateway_pb2.Failure) -> None:
    """Prints a part that failed so that it cannot be overlooked."""
    console.print(Text.assemble(("\n ✗ ", "bold red"), (plain(failure_sentence(failure)), "red")))


def show_footer(console: Console, response: gateway_pb2.AnalyzeResponse) -> None:
    """Prints how long the parts took, and which models and releases answered."""
    console.print()
    console.print(Padding(Text(" · ".join(timings(response)), style="dim"), (0, 1)))
    for source in sources(response):
        console.print(Padding(Text(plain(source), style="dim"), (0, 1)))


def _heading(console: Console, title: str, aside: str = "") -> None:
    heading = Text.assemble((title, "bold blue"), (f"  {aside}" if aside else "", "dim"))
    console.print()
    console.print(Padding(heading, (0, 1), expand=False))


def _columns(width: int, compared: bool) -> tuple[str, ...]:
    """Returns the columns of the scores that a terminal of `width` characters has room for."""
    if not compared:
        return "Dimension", SCALE, "Score"
    if width < NARROW:
        return "Dimension", "Score", "Gap"
    known = "Dimension", MARKED_SCALE, "Score", "Mean", "Gap"
    return known if width < WIDE else (*known, "Percentile", "Best reference")


def _score_row(score: scorer_pb2.DimensionScore, columns: tuple[str, ...]) -> list[Text]:
    comparison = score.comparison
    known = score.HasField("comparison")
    style = "red" if comparison.needs_work else "yellow" if known and gap(score) < 0 else "green"
    best = comparison.reference.best_example
    bar = _bar(score.score / 10, SCORE_CELLS, style, comparison.reference.mean / 10 if known else None)
    cells = {
        "Dimension": Text(dimension_name(score.dimension)),
        SCALE: bar,
        MARKED_SCALE: bar,
        "Score": Text(f"{score.score:.1f}", style=f"bold {style}"),
    }
    if known:
        cells |= {
            "Mean": Text(f"{comparison.reference.mean:.1f} ± {comparison.reference.stddev:.1f}", style="dim"),
            "Gap": Text("–" if comparison.not_comparable else signed(gap(score)), style=style),
            "Percentile": Text("–" if comparison.not_comparable else ordinal(comparison.percentile), style="dim"),
            "Best reference": Text(
                plain(f"{best.score:4.1f}  {best.title}"), style="dim", no_wrap=True, overflow="ellipsis"
            ),
        }
    return [cells.get(column, Text()) for column in columns]


def _evidence(console: Console, scores: scorer_pb2.ScoreResponse) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for score in scores.dimensions:
        if score.evidence:
            table.add_row(Text(dimension_name(score.dimension), style="dim"), Text(plain(" ".join(score.evidence[:2]))))
    console.print(Padding(table, (0, 1)))


def _bar(share: float, cells: int, style: str, mark: float | None = None) -> Text:
    """Returns a bar of `cells` characters, filled to `share` (0 to 1), with a mark at `mark` (0 to 1)."""
    filled = round(min(1.0, max(0.0, share)) * cells)
    bar = Text("━" * filled, style=style)
    bar.append("─" * (cells - filled), style="bright_black")
    if mark is None:
        return bar
    place = min(cells - 1, max(0, round(mark * cells)))
    return Text.assemble(bar[:place], ("│", "bold"), bar[place + 1 :])
