"""How photographs are sent to the gateway: one call, a stream of events, or many photographs over one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from google.rpc import code_pb2
from mondrian.critic.v1 import critic_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.types.v1 import types_pb2

from services.cli.client import CallFailed, Gateway
from services.cli.photographs import UnusablePhotograph, check_photograph, read_photograph, shown


class Mode(StrEnum):
    """Which parts are wanted, as typed."""

    CLIP = "clip"
    LORA = "lora"
    DIMENSIONAL = "dimensional"
    COMBINED = "combined"


class Form(StrEnum):
    """How the critique is written, as typed."""

    PROSE = "prose"
    SECTIONS = "sections"
    JSON = "json"


@dataclass(frozen=True)
class Question:
    """What is asked about every photograph."""

    advisor: str
    mode: Mode
    top_k: int = 0
    instruction: str = ""
    grounded: bool = False
    max_tokens: int | None = None
    thumbnails: bool = False
    form: Form = Form.PROSE

    def about(self, photograph: bytes) -> gateway_pb2.AnalyzeRequest:
        """Returns the request for one photograph."""
        request = gateway_pb2.AnalyzeRequest(
            image=types_pb2.Image(content=photograph),
            advisor=self.advisor,
            mode=gateway_pb2.Mode.Value(f"MODE_{self.mode.name}"),
            top_k=self.top_k,
            include_thumbnails=self.thumbnails,
            instruction=self.instruction,
            grounded=self.grounded,
        )
        if self.max_tokens is not None:
            request.generation_config.max_tokens = self.max_tokens
        if self.form is not Form.PROSE:
            request.generation_config.output_format = critic_pb2.OutputFormat.Value(f"OUTPUT_FORMAT_{self.form.name}")
        return request


@dataclass
class Outcome:
    """What became of one photograph."""

    path: Path
    response: gateway_pb2.AnalyzeResponse | None = None
    """The answer; None where there is none."""
    sentence: str = ""
    """Why there is none."""
    status: types_pb2.Status = field(default_factory=types_pb2.Status)
    """What the call ended with, or would have where nothing was sent."""

    @property
    def failed(self) -> bool:
        """Whether the answer, or a part of it, is missing."""
        return self.response is None or bool(self.response.failures)

    def refuse(self, error: UnusablePhotograph | CallFailed) -> None:
        """Records why there is no answer."""
        self.sentence = str(error)
        if isinstance(error, CallFailed):
            self.status = error.status
        else:
            self.status = types_pb2.Status(
                code=code_pb2.INVALID_ARGUMENT, reason=error.reason or "INVALID_ARGUMENT", message=str(error)
            )
        # What a service says of a photograph does not name the file; what is said here does.
        if shown(self.path) not in self.sentence and self.status.reason.startswith("IMAGE_"):
            self.sentence = f"{shown(self.path)}: {self.sentence}"


def ask(gateway: Gateway, question: Question, path: Path, timeout_s: float) -> Outcome:
    """Returns what became of one photograph, asked in one call."""
    outcome = Outcome(path)
    try:
        outcome.response = gateway.analyze(question.about(read_photograph(path)), timeout_s)
    except (UnusablePhotograph, CallFailed) as error:
        outcome.refuse(error)
    return outcome


def ask_streaming(
    gateway: Gateway,
    question: Question,
    path: Path,
    timeout_s: float,
    on_event: Callable[[gateway_pb2.StreamAnalyzeResponse], None],
) -> Outcome:
    """Returns what became of one photograph, giving each event to `on_event` as it comes."""
    outcome = Outcome(path)
    try:
        for event in gateway.stream(question.about(read_photograph(path)), timeout_s):
            on_event(event)
            if event.HasField("completed"):
                outcome.response = event.completed
    except (UnusablePhotograph, CallFailed) as error:
        outcome.refuse(error)
    if outcome.response is None and not outcome.sentence:
        outcome.sentence = f"{shown(path)}: the gateway ended the stream before the answer was complete; try again."
    return outcome


def ask_many(
    gateway: Gateway,
    question: Question,
    paths: Sequence[Path],
    timeout_s: float,
    on_outcome: Callable[[int, Outcome], None],
) -> list[Outcome]:
    """Returns what became of each photograph, in the order given; asked over one call.

    `on_outcome` gets each outcome with its place as soon as it is known. The call may take `timeout_s` seconds for
    each photograph.
    """
    outcomes = [Outcome(path) for path in paths]
    waiting: list[int] = []
    for place, path in enumerate(paths):
        try:
            check_photograph(path)
            waiting.append(place)
        except UnusablePhotograph as error:
            outcomes[place].refuse(error)
            on_outcome(place, outcomes[place])
    if not waiting:
        return outcomes

    def requests() -> Iterator[gateway_pb2.AnalyzeBatchRequest]:
        # Read only when the gateway takes the next one, so that a thousand photographs are not held at once.
        for place in list(waiting):
            try:
                content = read_photograph(paths[place])
            except UnusablePhotograph as error:
                outcomes[place].refuse(error)
                continue
            yield gateway_pb2.AnalyzeBatchRequest(key=str(place), request=question.about(content))

    try:
        for result in gateway.batch(requests(), timeout_s * len(waiting)):
            place = int(result.key)
            outcome = outcomes[place]
            if result.HasField("response"):
                outcome.response = result.response
            else:
                outcome.refuse(CallFailed(result.status.message or "The gateway gave no reason.", result.status))
            waiting.remove(place)
            on_outcome(place, outcome)
    except CallFailed as error:
        for place in waiting:
            if not outcomes[place].sentence:
                outcomes[place].refuse(error)
    for place in waiting:
        if not outcomes[place].sentence:
            outcomes[place].sentence = f"{shown(paths[place])}: the gateway gave no result; try again."
        on_outcome(place, outcomes[place])
    return outcomes
