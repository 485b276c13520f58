"""Numbers and names as a person reads them."""

from __future__ import annotations

import io

import pytest
from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.types.v1 import types_pb2
from rich.console import Console

from services.cli import wording
from services.cli.console import plain
from services.cli.live import LiveAnswer
from services.cli.show import show_answer, show_critique
from services.gateway.summary import nearest
from tests.fakes import answers


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(0, "0 ms"), (12.4, "12 ms"), (999.4, "999 ms"), (999.6, "1.00 s"), (1310.5, "1.31 s"), (45_678, "45.7 s")],
)
def test_durations_have_a_unit(milliseconds: float, words: str) -> None:
    assert wording.duration(milliseconds) == words


@pytest.mark.parametrize(("similarity", "words"), [(0.191, "0.19"), (-0.004, "0.00"), (-0.126, "−0.13"), (1.0, "1.00")])
def test_a_similarity_has_two_decimals_wherever_it_is_shown(similarity: float, words: str) -> None:
    neighbor = embedder_pb2.Neighbor(similarity=similarity, reference=types_pb2.Reference(title="Ridge"))
    assert wording.similarity(neighbor) == words
    assert f"“Ridge” ({words})" in nearest(embedder_pb2.SearchReferencesResponse(neighbors=[neighbor]), "Ansel")


@pytest.mark.parametrize(("points", "words"), [(0.04, "0.0"), (-0.04, "0.0"), (0.4, "+0.4"), (-2.75, "−2.8")])
def test_differences_have_a_sign(points: float, words: str) -> None:
    assert wording.signed(points) == words


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0th"), (1, "1st"), (2, "2nd"), (3, "3rd"), (11, "11th"), (12, "12th"), (62, "62nd")]
)
def test_percentiles_are_ordinals(number: float, words: str) -> None:
    assert wording.ordinal(number) == words


def test_dimensions_are_named_as_people_write_them() -> None:
    assert wording.dimension_name(types_pb2.DIMENSION_FOCUS_SHARPNESS) == "Focus sharpness"
    assert wording.dimension_name(99) == "Dimension 99"  # type: ignore[arg-type]


def test_control_characters_never_reach_the_terminal() -> None:
    assert plain("a\x1b[2Jb\rc\u202ed\ne\tf") == "a[2Jbcd\ne\tf"
    response = answers.answer()
    response.critique.text = response.summary = "\x1b]0;title\x07 text"
    response.references.neighbors[0].reference.title = "\x1b[31mred"
    console = Console(file=io.StringIO(), width=120)
    show_answer(console, response, "\x1bansel")
    assert isinstance(console.file, io.StringIO)
    assert "\x1b" not in console.file.getvalue()
    assert "\x07" not in console.file.getvalue()


def test_a_summary_does_not_repeat_the_critique_that_is_the_whole_answer() -> None:
    response = answers.answer()
    assert wording.summary(response) == response.summary
    response.ClearField("references")
    response.ClearField("scores")
    assert wording.summary(response) == ""
    response.failures.add(part=gateway_pb2.PART_SCORES)
    assert wording.summary(response) == response.summary


@pytest.mark.parametrize("width", [60, 80, 110, 200])
def test_an_answer_fits_the_terminal(width: int) -> None:
    file = io.StringIO()
    show_answer(Console(file=file, width=width), answers.without_critique(), "ansel")
    assert max(len(line.rstrip()) for line in file.getvalue().splitlines()) <= width
    for words in ("Composition", "7.2", "Moon over the ridge", "✗"):
        assert words in file.getvalue()


def rows(response: gateway_pb2.AnalyzeResponse, width: int) -> list[str]:
    """Returns the lines that a terminal of `width` characters shows of an answer."""
    file = io.StringIO()
    show_answer(Console(file=file, width=width), response, "ansel")
    return file.getvalue().splitlines()


def test_a_narrow_terminal_gives_its_room_to_words() -> None:
    shown = rows(answers.answer(), 60)
    assert not any("━" in line or "─" * 9 in line for line in shown if "Moon over the ridge" in line)
    assert any("━" in line for line in rows(answers.answer(), 80) if "Moon over the ridge" in line)
    assert all(line.startswith(" ") for line in shown if line)


def test_scores_of_the_best_references_stand_in_a_column() -> None:
    response = answers.answer()
    response.scores.dimensions[0].comparison.reference.best_example.score = 10
    places = {line.index("Moon over") for line in rows(response, 110) if "Moon over" in line and "±" in line}
    assert len(places) == 1


def test_who_wrote_a_critique_is_said_once() -> None:
    assert sum("with the adapter ansel" in line for line in rows(answers.answer(), 110)) == 1


def test_points_begin_with_a_capital() -> None:
    critique = critic_pb2.CritiqueResponse(sections=critic_pb2.Sections(to_try=["darken the edge.", "1 stop more."]))
    assert wording.critique_sections(critique) == [("What to try", ["Darken the edge.", "1 stop more."])]


def test_a_gap_is_the_difference_of_the_numbers_beside_it() -> None:
    response = answers.answer()
    answers.set_score(response.scores.dimensions[1], 6.94, 7.36)
    (row,) = (line.split() for line in rows(response, 110) if line.startswith(" Lighting  ") and "±" in line)
    assert row[2:7] == ["6.9", "7.4", "±", "0.8", "−0.5"]


def test_what_becomes_ready_during_the_critique_waits_for_its_end() -> None:
    whole = answers.answer()
    event = gateway_pb2.StreamAnalyzeResponse
    started, words = event(), [event(), event()]
    started.critique_started.authorship.CopyFrom(whole.critique.authorship)
    words[0].critique_delta.text, words[1].critique_delta.text = "The ridge ", "leads."
    ended = event()
    ended.critique_completed.completion.CopyFrom(whole.critique.completion)
    file = io.StringIO()
    live = LiveAnswer(Console(file=file, width=120), "ansel")
    for each in (started, words[0], event(scores=whole.scores), words[1], ended, event(completed=whole)):
        live(each)
    live.close()
    shown = file.getvalue()
    assert "The ridge leads.\n" in shown
    assert shown.index("leads.") < shown.index("Scores: 6.4") < shown.index("in all 1.31 s")


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_critique_is_streamed_in_the_lines_in_which_it_is_printed(size: int) -> None:
    whole, event = answers.answer(), gateway_pb2.StreamAnalyzeResponse
    text = f"\n {whole.critique.text}\n\nWait for 雲の影.   "
    streamed, printed = io.StringIO(), io.StringIO()
    flow = LiveAnswer(Console(file=streamed, width=40), "ansel")
    started = event()
    started.critique_started.authorship.CopyFrom(whole.critique.authorship)
    flow(started)
    heading = streamed.tell()
    for start in range(0, len(text), size):
        piece = event()
        piece.critique_delta.text = text[start : start + size]
        flow(piece)
    flow.close()
    show_critique(Console(file=printed, width=40), critic_pb2.CritiqueResponse(text=text))
    shown = streamed.getvalue()[heading:].splitlines()
    assert len(shown) > 3
    assert shown == [line.rstrip() for line in printed.getvalue().splitlines()]


def test_a_stream_that_breaks_off_leaves_a_finished_line() -> None:
    whole = answers.answer()
    started = gateway_pb2.StreamAnalyzeResponse()
    started.critique_started.authorship.CopyFrom(whole.critique.authorship)
    file = io.StringIO()
    live = LiveAnswer(Console(file=file, width=120), "ansel")
    live(started)
    live(gateway_pb2.StreamAnalyzeResponse(references=whole.references))
    live.close()
    assert file.getvalue().endswith("\n")
    assert "Moon over the ridge" in file.getvalue()
