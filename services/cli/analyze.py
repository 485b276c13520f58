"""`mondrian analyze`: photographs in, answers out, for a person or for a program."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Final

import typer
from mondrian.gateway.v1 import gateway_pb2
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from services.cli.calls import Form, Mode, Outcome, Question, ask, ask_many, ask_streaming
from services.cli.client import Address, CallFailed, Gateway
from services.cli.console import FAILED, complain, err, out, remark
from services.cli.documents import as_json, as_json_array, as_json_line, without_thumbnails
from services.cli.live import LiveAnswer
from services.cli.photographs import shown
from services.cli.report import write_report
from services.cli.settings import ClientSettings
from services.cli.show import show_answer, show_title
from services.core.advisors import require_id
from services.core.commands.output import going_on_unread
from services.core.errors import ConfigurationError
from services.core.settings import MOST

DEFAULT_TIMEOUT_S: Final = 120.0


def analyze(
    photographs: Annotated[
        list[Path],
        typer.Argument(metavar="PHOTO", help="Photographs: JPEG, PNG, WebP, TIFF, GIF or BMP, up to 15 MiB."),
    ],
    advisor: Annotated[
        str,
        typer.Option("--advisor", "-a", metavar="ID", help="Whose manner they are judged in; see `mondrian advisors`."),
    ],
    mode: Annotated[
        Mode,
        typer.Option(
            "--mode",
            "-m",
            metavar="MODE",
            help="clip: similar references; lora: critique; dimensional: scores; combined: all three.",
        ),
    ] = Mode.COMBINED,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else; an array where there are several photographs.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Show each part when it is ready; with --json, one event a line.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the answers as one HTML page.")
    ] = None,
    top_k: Annotated[
        int, typer.Option("--top-k", min=1, max=100, metavar="N", help="How many similar references.")
    ] = 3,
    instruction: Annotated[
        str,
        typer.Option(
            "--instruction", metavar="TEXT", help="A wish or question for the critique, up to 1,000 characters."
        ),
    ] = "",
    grounded: Annotated[
        bool, typer.Option("--grounded", help="Let the critique build on references and scores; slower.")
    ] = False,
    form: Annotated[
        Form,
        typer.Option(
            "--form", metavar="FORM", help="How the critique is written: prose, under headings (sections), or json."
        ),
    ] = Form.PROSE,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", min=1, max=2**31 - 1, metavar="N", help="The greatest length of the critique, in tokens."
        ),
    ] = None,
    address: Address = None,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=0.1, max=MOST, metavar="SECONDS", help="How long each photograph may take."),
    ] = DEFAULT_TIMEOUT_S,
) -> None:
    """Analyse photographs in the manner of an advisor.

    Exit code 1 when a photograph, or a part of an answer, failed; the others are answered all the same.
    """
    require_id(advisor)
    _require_text("--instruction", instruction)
    _require_text("--address", address or "")
    if report is not None:
        require_writable(report)
    settings = ClientSettings.load()
    question = Question(advisor, mode, top_k, instruction, grounded, max_tokens, report is not None, form)
    # A report is wanted even when nobody reads to the end what is printed.
    unread = going_on_unread() if report is not None else contextlib.nullcontext()
    with unread, Gateway(address or settings.address, settings) as gateway:
        if stream:
            outcomes = [_streamed(gateway, question, path, timeout, json_output) for path in photographs]
        elif len(photographs) == 1:
            outcomes = [_single(gateway, question, photographs[0], timeout, json_output)]
        else:
            outcomes = _several(gateway, question, photographs, timeout, json_output)
        if report is not None:
            write_report(report, outcomes, _name_of(gateway, advisor), mode.value)
            remark(f"The report is in {report}.")
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(FAILED)


def _require_text(option: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"What stands behind {option} is no text in UTF-8; write it anew.") from error


def _single(gateway: Gateway, question: Question, path: Path, timeout_s: float, json_output: bool) -> Outcome:
    console = err()
    if console.is_terminal:
        with console.status(Text(f"Analysing {shown(path)} …")):
            outcome = ask(gateway, question, path, timeout_s)
    else:
        outcome = ask(gateway, question, path, timeout_s)
    if not json_output:
        _show(outcome, question)
    elif outcome.response is not None:
        print(as_json(without_thumbnails(outcome.response)), flush=True)
    if outcome.response is None:
        complain(outcome.sentence)
    return outcome


def _streamed(gateway: Gateway, question: Question, path: Path, timeout_s: float, json_output: bool) -> Outcome:
    if json_output:
        outcome = ask_streaming(gateway, question, path, timeout_s, _print_event)
    else:
        console = out()
        show_title(console, shown(path), question.advisor, question.mode.value)
        live = LiveAnswer(console, question.advisor, as_written=question.form is not Form.JSON)
        try:
            outcome = ask_streaming(gateway, question, path, timeout_s, live)
        finally:
            live.close()
    if outcome.response is None:
        complain(outcome.sentence)
    return outcome


def _print_event(event: gateway_pb2.StreamAnalyzeResponse) -> None:
    print(as_json_line(event), flush=True)


def _several(
    gateway: Gateway, question: Question, paths: list[Path], timeout_s: float, json_output: bool
) -> list[Outcome]:
    columns = TextColumn("Analysing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    ready: dict[int, Outcome] = {}
    shown = 0

    def known(place: int, outcome: Outcome) -> None:
        # Shown in the order in which they were named, each as soon as all before it are known.
        nonlocal shown
        ready[place] = outcome
        bar.advance(task)
        while shown in ready and not json_output:
            _show(ready[shown], question)
            if ready[shown].response is None:
                complain(ready[shown].sentence)
            shown += 1

    with Progress(*columns, console=err(), transient=True, disable=not err().is_terminal) as bar:
        task = bar.add_task("", total=len(paths))
        outcomes = ask_many(gateway, question, paths, timeout_s, known)
    if json_output:
        print(as_json_array([_keyed(outcome) for outcome in outcomes]), flush=True)
        for outcome in outcomes:
            if outcome.response is None:
                complain(outcome.sentence)
    return outcomes


def _keyed(outcome: Outcome) -> gateway_pb2.AnalyzeBatchResponse:
    result = gateway_pb2.AnalyzeBatchResponse(key=shown(outcome.path))
    if outcome.response is not None:
        result.response.CopyFrom(without_thumbnails(outcome.response))
    else:
        result.status.CopyFrom(outcome.status)
        result.status.message = outcome.sentence
    return result


def _show(outcome: Outcome, question: Question) -> None:
    if outcome.response is None:
        return
    console = out()
    show_title(console, shown(outcome.path), question.advisor, question.mode.value)
    show_answer(console, outcome.response, question.advisor)
    console.print()


def _name_of(gateway: Gateway, advisor: str) -> str:
    """Returns the advisor's name; its id where the gateway cannot say, for a report is worth writing all the same."""
    try:
        summaries, _ = gateway.advisors()
    except CallFailed:
        return advisor
    return next((each.advisor.name for each in summaries if each.advisor.id == advisor), "") or advisor


def require_writable(report: Path) -> None:
    """Checks before the work, not after it, that the report can be written."""
    if report.is_dir():
        raise ConfigurationError(f"{report} is a folder; name a file for the report, like {report}/report.html.")
    if not report.parent.is_dir():
        raise ConfigurationError(f"The folder {report.parent} does not exist; make it, or write the report elsewhere.")
