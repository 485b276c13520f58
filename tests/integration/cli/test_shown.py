"""What `mondrian analyze` and `mondrian advisors` show to a person."""

from __future__ import annotations

from pathlib import Path

import pytest
from mondrian.critic.v1 import critic_pb2

from services.core.errors import EngineStopped
from tests.fakes import answers
from tests.integration.cli.stage import Stage, flat


def test_shows_a_combined_answer(stage: Stage, photograph: Path) -> None:
    result = stage.run("analyze", photograph, "--advisor", "ansel")
    assert result.exit_code == 0, result.output
    shown = flat(result.stdout)
    for words in (
        "ridge.jpg",
        "Moon over the ridge",
        "0.83 ━",
        "Scores: 6.4 of 10, grade B",
        "Composition",
        "Expose for the highlights",
        "The ridge leads the eye",
        "written by fake with the adapter ansel",
        "in all",
    ):
        assert words in shown
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("mode", "there", "absent"),
    [
        ("clip", "Similar references", ("Scores:", "Critique")),
        ("lora", "Critique", ("Scores:", "Similar references")),
        ("dimensional", "Scores:", ("Critique", "Similar references")),
    ],
)
def test_shows_the_part_of_a_mode(
    stage: Stage, photograph: Path, mode: str, there: str, absent: tuple[str, ...]
) -> None:
    result = stage.run("analyze", photograph, "-a", "ansel", "--mode", mode)
    assert result.exit_code == 0, result.output
    assert there in result.stdout
    assert not any(words in result.stdout for words in absent)


def test_passes_the_options_on(stage: Stage, photograph: Path) -> None:
    options = ("--top-k", "2", "--instruction", "Mind the sky.", "--max-tokens", "40", "--form", "sections")
    assert stage.run("analyze", photograph, "-a", "ansel", *options).exit_code == 0
    assert stage.system.embedder.requests[-1].top_k == 2
    critique = stage.system.critic.requests[-1]
    assert critique.instruction == "Mind the sky."
    assert critique.generation_config.max_tokens == 40
    assert critique.generation_config.output_format == critic_pb2.OUTPUT_FORMAT_SECTIONS
    assert critique.image.content == photograph.read_bytes()


def test_streams_the_critique(stage: Stage, photograph: Path) -> None:
    result = stage.run("analyze", photograph, "-a", "ansel", "--stream")
    assert result.exit_code == 0, result.output
    shown = flat(result.stdout)
    assert stage.system.critic.text in shown
    assert "Scores: 6.4 of 10" in shown
    assert shown.count("Moon over the ridge") >= 1


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_a_critique_as_json_is_shown_by_section(stage: Stage, photograph: Path, stream: tuple[str, ...]) -> None:
    stage.system.critic.text = '{"overview": "..."}'
    stage.system.critic.sections = answers.SECTIONS
    result = stage.run("analyze", photograph, "-a", "ansel", "-m", "lora", "--form", "json", *stream)
    assert result.exit_code == 0, result.output
    assert stage.system.critic.requests[-1].generation_config.output_format == critic_pb2.OUTPUT_FORMAT_JSON
    shown = flat(result.stdout)
    assert "The ridge leads to the moon. Strengths The snow keeps its texture." in shown
    assert "What to try Wait for the shadow. In the advisor’s voice Place the snow on Zone VII." in shown
    assert "{" not in shown


def test_a_part_that_fails_is_said_and_the_others_are_shown(stage: Stage, photograph: Path) -> None:
    stage.system.critic.failure = EngineStopped("The critic's engine has stopped.")
    for stream in ((), ("--stream",)):
        result = stage.run("analyze", photograph, "-a", "ansel", *stream)
        assert result.exit_code == 1
        assert "✗ Critique: The critic's engine has stopped." in flat(result.stdout)
        assert "Scores: 6.4 of 10" in result.stdout


def test_says_that_the_base_model_wrote(stage: Stage, photograph: Path) -> None:
    stage.system.critic.adapters.clear()
    result = stage.run("analyze", photograph, "-a", "ansel", "-m", "lora")
    assert result.exit_code == 0
    assert "There is no adapter for 'ansel'." in flat(result.stdout)


def test_lists_the_advisors(stage: Stage) -> None:
    result = stage.run("advisors")
    assert result.exit_code == 0, result.output
    for words in ("ansel", "Ansel Sample", "okeefe", "26", "adapter", "profile"):
        assert words in result.stdout


def test_lists_the_advisors_without_the_critic(stage: Stage) -> None:
    stage.system.critic.failure = EngineStopped("The critic's engine has stopped.")
    result = stage.run("advisors")
    assert result.exit_code == 1
    assert "Ansel Sample" in result.stdout
    assert "not known" in result.stdout
    assert "base model" not in result.stdout
    assert "profile" in result.stdout
    assert result.stderr.startswith("mondrian: Critique: ")
