"""The `mondrian` command against a real gateway over fake services: what a person and what a program get."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2
from mondrian.critic.v1 import critic_pb2
from typer.testing import CliRunner

from services.cli.commands import app
from services.core.errors import EngineStopped, InvalidImage, Overloaded
from tests.fakes import answers
from tests.fakes.answers import picture
from tests.fakes.certificates import Authority
from tests.fakes.system import System, system


@dataclass
class Stage:
    """A system that runs in another thread, and the command that talks to it."""

    system: System
    loop: asyncio.AbstractEventLoop

    def run(self, *arguments: str | Path, at: str | None = None) -> Any:
        """Runs `mondrian ARGUMENTS` and returns its exit code and output."""
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(app, [*words, "--address", at or self.system.address])


@contextlib.contextmanager
def staged(**settings: Any) -> Iterator[Stage]:
    """A stage whose gateway has these settings."""
    stages: queue.Queue[Stage] = queue.Queue()
    ended = asyncio.Event()

    async def serve() -> None:
        async with system(**settings) as running:
            stages.put(Stage(running, asyncio.get_running_loop()))
            await ended.wait()

    # asyncio.run ends what is left of a call that a test gave up, before the loop goes.
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    running = stages.get(timeout=30)
    try:
        yield running
    finally:
        running.loop.call_soon_threadsafe(ended.set)
        thread.join(30)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged() as running:
        yield running


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "ridge.jpg"
    path.write_bytes(picture())
    return path


def flat(text: str) -> str:
    return " ".join(text.split())


# For a person -------------------------------------------------------------------------------------------------


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


# For a program ------------------------------------------------------------------------------------------------


def test_prints_one_json_document(stage: Stage, photograph: Path) -> None:
    result = stage.run("analyze", photograph, "-a", "ansel", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["references"]["neighbors"][0]["reference"]["title"] == "Moon over the ridge"
    assert len(document["scores"]["dimensions"]) == 8
    assert document["scores"]["dimensions"][0]["dimension"] == "DIMENSION_COMPOSITION"
    assert document["critique"]["text"] == stage.system.critic.text
    assert document["failures"] == []


def test_prints_an_array_for_several_photographs(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no photograph")
    missing = tmp_path / "none.jpg"
    result = stage.run("analyze", photograph, missing, text, photograph, "-a", "ansel", "-m", "clip", "--json")
    assert result.exit_code == 1
    documents = json.loads(result.stdout)
    assert [document["key"] for document in documents] == [str(photograph), str(missing), str(text), str(photograph)]
    assert ["response" in document for document in documents] == [True, False, False, True]
    assert "does not exist" in documents[1]["status"]["message"]
    assert documents[1]["status"]["code"] == code_pb2.INVALID_ARGUMENT  # 0 would be OK
    assert documents[1]["status"]["reason"] == "INVALID_ARGUMENT"
    assert documents[2]["status"]["reason"] == "IMAGE_UNDECODABLE"
    assert len(result.stderr.splitlines()) == 2


def test_prints_an_event_a_line(stage: Stage, photograph: Path) -> None:
    result = stage.run("analyze", photograph, "-a", "ansel", "--json", "--stream")
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert "completed" in events[-1]
    written = "".join(event["critique_delta"]["text"] for event in events if "critique_delta" in event)
    assert written == stage.system.critic.text


# Bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
        (lambda path: path.write_bytes(b"plain text"), "cannot be decoded"),
        (os.mkfifo, "is empty (0 bytes)"),
    ],
    ids=["missing", "folder", "empty", "text", "a pipe that nobody writes into"],
)
def test_a_bad_photograph_is_one_sentence_and_the_others_go_on(
    stage: Stage, photograph: Path, tmp_path: Path, make: Callable[[Path], Any], words: str
) -> None:
    bad = tmp_path / "bad.jpg"
    make(bad)
    alone = stage.run("analyze", bad, "-a", "ansel")
    assert alone.exit_code == 1
    assert alone.stdout == ""
    [line] = alone.stderr.splitlines()
    assert line.startswith("mondrian: ")
    assert str(bad) in line
    assert words in line
    both = stage.run("analyze", bad, photograph, "-a", "ansel", "-m", "clip")
    assert both.exit_code == 1
    assert "Moon over the ridge" in both.stdout
    assert len(both.stderr.splitlines()) == 1


def test_names_that_are_no_text_are_told_by_escapes_wherever_they_are_told(
    stage: Stage, photograph: Path, tmp_path: Path
) -> None:
    odd, bad = (Path(os.fsdecode(os.fsencode(tmp_path) + name)) for name in (b"/\xff\n\x1b[31m.jpg", b"/\xfe\n.txt"))
    odd.write_bytes(photograph.read_bytes())
    bad.write_text("no photograph")
    report = tmp_path / "report.html"
    result = stage.run("analyze", odd, bad, "-a", "ansel", "-m", "clip", "--json", "--report", report)
    assert result.exit_code == 1
    documents = json.loads(result.stdout)
    names = [rf"{tmp_path}/\xff\n\x1b[31m.jpg", rf"{tmp_path}/\xfe\n.txt"]
    assert [document["key"] for document in documents] == names
    assert documents[1]["status"]["message"].startswith(names[1])
    [complaint, _] = result.stderr.splitlines()
    assert names[1] in complaint
    assert r"\xff\n\x1b[31m.jpg" in report.read_text()
    alone = stage.run("analyze", odd, "-a", "ansel", "-m", "clip", "--stream")
    assert r"\xff\n\x1b[31m.jpg" in alone.stdout


def test_a_photograph_beyond_the_message_limit_is_not_sent(stage: Stage, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(300 * 1024 * 1024)
    result = stage.run("analyze", large, "-a", "ansel")
    assert result.exit_code == 1
    assert "300.0 MiB, more than the 15 MiB" in result.stderr
    assert stage.system.embedder.requests == []


def test_a_photograph_just_within_the_limit_is_sent(stage: Stage, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(picture() + bytes(15 * 1024 * 1024 - len(picture())))
    assert stage.run("analyze", large, "-a", "ansel", "-m", "clip").exit_code == 0


def test_an_unknown_advisor_is_one_sentence(stage: Stage, photograph: Path) -> None:
    result = stage.run("analyze", photograph, "-a", "nobody", "-m", "clip")
    assert result.exit_code == 1
    assert "nobody" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_wrong_use_ends_with_2(stage: Stage, photograph: Path) -> None:
    assert stage.run("analyze", photograph, "-a", "Ansel Adams").exit_code == 2
    assert stage.run("analyze", photograph, "-a", "ansel", "--mode", "fast").exit_code == 2
    assert stage.run("analyze", photograph).exit_code == 2
    assert stage.run("analyze", photograph, "-a", "ansel", "--top-k", "0").exit_code == 2
    assert stage.run("nothing").exit_code == 2


def test_an_overloaded_service_says_when_to_try_again(stage: Stage, photograph: Path) -> None:
    stage.system.embedder.failure = Overloaded("Too many requests wait.", retry_after_s=2.0)
    result = stage.run("analyze", photograph, "-a", "ansel", "-m", "clip")
    assert result.exit_code == 1
    assert flat(result.stderr) == "mondrian: Too many requests wait; try again in 2 s."


def test_no_gateway_is_one_sentence_that_says_how_to_start_it(stage: Stage, photograph: Path) -> None:
    for arguments in (("analyze", photograph, "-a", "ansel"), ("advisors",)):
        result = stage.run(*arguments, at="127.0.0.1:1")
        assert result.exit_code == 1
        assert flat(result.stderr) == (
            "mondrian: No gateway answers at 127.0.0.1:1; start the services with `mondrian up`, "
            "or name another with --address HOST:PORT."
        )


def test_a_gateway_that_asks_for_tokens_and_certificates_is_given_them(
    photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    pair, own, tokens = authority.issue("gateway"), authority.issue("client"), tmp_path / "tokens"
    tokens.write_text("token-of-this-test\n")
    tls: dict[str, Any] = {
        "tls_certificate": pair.certificate,
        "tls_key": pair.key,
        "tls_client_ca": authority.certificate,
    }
    arguments = ("analyze", photograph, "-a", "ansel", "-m", "clip")
    with staged(tokens_file=tokens, **tls) as stage:
        assert "No gateway answers" in flat(stage.run(*arguments).stderr)
        for name, path in (
            ("TLS_AUTHORITY", authority.certificate),
            ("TLS_CLIENT_CERTIFICATE", own.certificate),
            ("TLS_CLIENT_KEY", own.key),
        ):
            monkeypatch.setenv(f"MONDRIAN_GATEWAY_{name}", str(path))
        for command in (arguments, (*arguments, "--stream"), (*arguments, photograph), ("advisors",)):
            monkeypatch.delenv("MONDRIAN_GATEWAY_TOKENS_FILE", raising=False)
            refused = stage.run(*command)
            assert refused.exit_code == 1
            assert "set MONDRIAN_GATEWAY_TOKENS_FILE" in flat(refused.stderr)
            monkeypatch.setenv("MONDRIAN_GATEWAY_TOKENS_FILE", str(tokens))
            assert stage.run(*command).exit_code == 0
        monkeypatch.setenv("MONDRIAN_GATEWAY_TLS_AUTHORITY", str(tmp_path / "none"))
        missing = stage.run(*arguments)
        assert missing.exit_code == 2
        assert "cannot be read" in flat(missing.stderr)


def test_another_server_is_named_as_such(stage: Stage, photograph: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        result = stage.run("analyze", photograph, "-a", "ansel", at=f"127.0.0.1:{port}")
        server.stop(None).wait()
    assert result.exit_code == 1
    assert "is not a Mondrian gateway" in result.stderr


def test_no_answer_in_time_is_one_sentence(stage: Stage, photograph: Path) -> None:
    stage.loop.call_soon_threadsafe(stage.system.embedder.gate.clear)
    try:
        result = stage.run("analyze", photograph, "-a", "ansel", "-m", "clip", "--timeout", "0.4")
    finally:
        stage.loop.call_soon_threadsafe(stage.system.embedder.gate.set)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1


def test_a_service_that_refuses_the_photograph_is_quoted_with_the_file(stage: Stage, photograph: Path) -> None:
    stage.system.embedder.failure = InvalidImage("The photograph is cut off.", reason="IMAGE_TRUNCATED")
    result = stage.run("analyze", photograph, "-a", "ansel", "-m", "clip")
    assert result.exit_code == 1
    assert flat(result.stderr) == f"mondrian: {photograph}: The photograph is cut off."


# The report ---------------------------------------------------------------------------------------------------


def test_writes_a_report(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    missing = tmp_path / "none.jpg"
    result = stage.run("analyze", photograph, missing, "-a", "ansel", "--report", report)
    assert result.exit_code == 1
    page = report.read_text()
    for words in ("Ansel Sample", "ridge.jpg", "none.jpg", "does not exist", "Moon over the ridge", "<svg"):
        assert words in page
    assert list(tmp_path.glob("tmp*")) == []


def test_a_report_is_written_though_nobody_reads_what_is_printed(
    stage: Stage, photograph: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "services.cli", "analyze", str(photograph), "-a", "ansel", "-m", "clip"]
    ended = subprocess.run(
        [*command, "--report", str(report), "--address", stage.system.address],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, f"The report is in {report}.\n")
    assert "Moon over the ridge" in report.read_text()


def test_a_report_that_cannot_be_written_is_said_before_the_work(
    stage: Stage, photograph: Path, tmp_path: Path
) -> None:
    for report in (tmp_path, tmp_path / "none" / "report.html"):
        result = stage.run("analyze", photograph, "-a", "ansel", "--report", report)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
    assert stage.system.embedder.requests == []
