"""The sentences that a person reads, against files that a person has read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mondrian.critic.v1 import critic_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.scorer.v1 import scorer_pb2
from mondrian.types.v1 import types_pb2

from services.gateway.sentences import sentences_of
from services.gateway.summary import about_critique, missing, narrate, standing
from tests.fakes import answers
from tests.golden.answers import ADVISOR, CASES, FOLDER, told


@pytest.mark.parametrize("name", CASES)
def test_the_sentences_are_those_of_the_golden_file(name: str) -> None:
    assert told(name) == json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def test_every_golden_file_has_its_case() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(CASES)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("One.", ["One."]),
        ("No mark at all", ["No mark at all"]),
        ("One. Two! Three? Four…", ["One.", "Two!", "Three?", "Four…"]),
        ("Свет мягок. Тень глубока, т. е. держит.", ["Свет мягок.", "Тень глубока, т. е. держит."]),
        ("光は柔らかい。影は深い！「雲を待て。」", ["光は柔らかい。", "影は深い！", "「雲を待て。」"]),
        ("At f/2.8 and 1.5 s it holds. Good.", ["At f/2.8 and 1.5 s it holds.", "Good."]),
        ("See e.g. The Lake. Then go.", ["See e.g. The Lake.", "Then go."]),
        ("Ansel E. Adams waited. He did.", ["Ansel E. Adams waited.", "He did."]),
        ("“It leads.” The rest follows.", ["“It leads.”", "The rest follows."]),
        ("A heading\n\nA paragraph\nof two lines.", ["A heading", "A paragraph of two lines."]),
        ("First:\n- a point\n- another", ["First:", "- a point", "- another"]),
        ("É bom. Últimas luzes.", ["É bom.", "Últimas luzes."]),
    ],
)
def test_a_text_falls_into_its_sentences(text: str, sentences: list[str]) -> None:
    assert sentences_of(text) == sentences


@given(text=st.text(max_size=200))
def test_no_letter_of_a_critique_is_lost(text: str) -> None:
    assert "".join("".join(sentences_of(text)).split()) == "".join(text.split())


@given(mine=st.floats(0, 10, width=32), best=st.floats(0, 10, width=32))
def test_two_scores_never_read_the_wrong_way_round(mine: float, best: float) -> None:
    dimension = scorer_pb2.DimensionScore(dimension=types_pb2.DIMENSION_LIGHTING, score=mine)
    dimension.comparison.reference.best_example.CopyFrom(scorer_pb2.Example(title="T", score=best))
    answer = gateway_pb2.AnalyzeResponse(scores=scorer_pb2.ScoreResponse(dimensions=[dimension]))
    narrate(answer, ADVISOR)
    sentence = answer.narrations[0].sentences[1]
    shown = [float(word.split("/10")[0]) for word in sentence.split() if "/10" in word]
    assert len(shown) == 2
    assert abs(shown[0] - mine) <= 0.0501
    assert abs(shown[1] - best) <= 0.0501
    assert (shown[0] - shown[1]) * (mine - best) >= 0


def test_the_strongest_dimension_is_that_which_stands_out_most_not_that_which_scores_most() -> None:
    scores = scorer_pb2.ScoreResponse(overall=7)
    for dimension, score, gap in (
        (types_pb2.DIMENSION_COMPOSITION, 9.0, -0.5),
        (types_pb2.DIMENSION_LIGHTING, 6.0, 0.02),
        (types_pb2.DIMENSION_FOCUS_SHARPNESS, 7.0, -1.0),
    ):
        scored = scores.dimensions.add(dimension=dimension)
        answers.set_score(scored, score, score - gap)
    assert standing(scores, "Ansel") == (
        "Your photograph scores 7.0/10 overall; beside the references of Ansel, lighting is strongest (6.0/10, level "
        "with the mean) and focus sharpness weakest (7.0/10, 1.0 points below the mean)."
    )


def test_what_needs_work_is_called_weakest_before_what_the_scorer_is_not_sure_of() -> None:
    scores = scorer_pb2.ScoreResponse(overall=5)
    for dimension, points, needs_work in (
        (types_pb2.DIMENSION_LIGHTING, 0.3, False),
        (types_pb2.DIMENSION_DEPTH_PERSPECTIVE, -4.4, False),
        (types_pb2.DIMENSION_VISUAL_BALANCE, -2.2, True),
    ):
        scored = scores.dimensions.add(dimension=dimension)
        answers.set_score(scored, 4, 4 - points)
        scored.comparison.needs_work = needs_work
    assert "visual balance weakest (4.0/10, 2.2 points below the mean)" in standing(scores, "Ansel")


def test_with_too_few_references_for_a_deviation_points_are_compared() -> None:
    scores = scorer_pb2.ScoreResponse(overall=5)
    for dimension, points in ((types_pb2.DIMENSION_COMPOSITION, 0.4), (types_pb2.DIMENSION_LIGHTING, -0.6)):
        answers.set_score(scores.dimensions.add(dimension=dimension), 5, 5 - points)
    assert "composition is strongest (5.0/10, 0.4 points above the mean)" in standing(scores, "Ansel")


def test_a_gap_is_the_difference_of_score_and_mean_as_tables_show_them() -> None:
    scores = scorer_pb2.ScoreResponse(overall=5)
    answers.set_score(scores.dimensions.add(dimension=types_pb2.DIMENSION_LIGHTING), 6.94, 7.36)
    assert "(6.9/10, 0.5 points below the mean)" in standing(scores, "Ansel")


def test_a_dimension_of_a_newer_scorer_does_not_break_the_answer() -> None:
    newer = scorer_pb2.DimensionScore.FromString(b"\x08\x63\x15\x00\x00\xa0\x40")
    answer = gateway_pb2.AnalyzeResponse(scores=scorer_pb2.ScoreResponse(dimensions=[newer]))
    narrate(answer, ADVISOR)
    assert "5.0/10" in answer.narrations[0].sentences[1]


def test_a_critique_that_names_no_reason_for_falling_back_still_says_that_it_did() -> None:
    critique = critic_pb2.CritiqueResponse(text="Good.", authorship=critic_pb2.Authorship(fell_back=True))
    assert about_critique(critique, "Ansel") == ["Good.", "The base model wrote the critique, not the voice of Ansel."]


def test_a_divided_critique_is_told_by_its_sections_and_not_as_it_was_written() -> None:
    sections = critic_pb2.Sections(
        overview="A lake. It is calm.", strengths=["Soft light."], to_try=["Come closer."], voice="Zone V."
    )
    critique = critic_pb2.CritiqueResponse(text='{"overview": "..."}', sections=sections)
    told = ["A lake.", "It is calm.", "Soft light.", "To try: Come closer.", "Zone V."]
    assert about_critique(critique, "Ansel") == told
    critique = critic_pb2.CritiqueResponse(text="A lake.\nCalm.", sections=critic_pb2.Sections(undivided=True))
    assert about_critique(critique, "Ansel") == ["A lake.", "Calm."]


@pytest.mark.parametrize("words", ["光と影" * 200, "See " + "光と影" * 200, "word " * 200])
def test_a_long_first_sentence_is_shortened_in_the_summary_and_not_left_out(words: str) -> None:
    response = gateway_pb2.AnalyzeResponse()
    response.critique.text = words
    narrate(response, "Ansel")
    assert 250 <= len(response.summary) <= 300
    assert response.summary.endswith(" …")
    assert words.startswith(response.summary.removesuffix(" …"))
    assert "wor " not in response.summary


def test_a_part_that_failed_without_a_word_is_named_all_the_same() -> None:
    assert missing(gateway_pb2.PART_SCORES, types_pb2.Status(code=13)) == "The scores are missing."
