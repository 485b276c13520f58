"""One photograph, asked of the parts that a mode names: at once, under one deadline, with whatever comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

import grpc
from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.scorer.v1 import scorer_pb2

from services.core.errors import EngineStopped, MondrianError, QueuedTooLong, code_of, status_of
from services.core.rpc.tokens import Metadata
from services.core.telemetry import tracing
from services.gateway import summary
from services.gateway.backend import NAMES
from services.gateway.clients import Backends
from services.gateway.directory import Directory, advisor_not_found
from services.gateway.grounding import grounding
from services.gateway.metrics import MODE_SECONDS, PART_SECONDS
from services.gateway.modes import CRITIQUE, PARTS, READING_ORDER, REFERENCES, SCORES, Part

Reply = embedder_pb2.SearchReferencesResponse | critic_pb2.CritiqueResponse | scorer_pb2.ScoreResponse
Emit = Callable[[gateway_pb2.StreamAnalyzeResponse], Awaitable[None]]

# How long an answer whose parts are complete waits for the advisor's name; after that the id stands in for it.
_NAME_GRACE_S: Final = 0.2
_LEAST_RETRY_S: Final = 0.01


@dataclass(frozen=True)
class Outcome:
    """What became of one part: a reply or an error, and the milliseconds from the fan-out until then."""

    elapsed_ms: float
    reply: Reply | None = None
    error: MondrianError | None = None

    @property
    def advisor_unknown(self) -> bool:
        """Whether the part does not know the advisor (the critic answers all the same, by its base model)."""
        if isinstance(self.reply, critic_pb2.CritiqueResponse):
            return self.reply.authorship.fell_back
        return self.error is not None and self.error.reason == "ADVISOR_NOT_FOUND"


def margin_s(seconds: float) -> float:
    """Returns how much of `seconds` is reserved to assemble and send the answer: 5%, at most a quarter of a second."""
    return min(0.25, 0.05 * seconds)


@dataclass
class Analysis:
    """One request on its way: `answer` runs its parts and puts the whole together."""

    backends: Backends
    directory: Directory
    request: gateway_pb2.AnalyzeRequest
    seconds: float
    """What is left of the deadline."""
    metadata: Metadata = ()
    """Sent with each call, so that one request id leads through all logs."""
    emit: Emit | None = None
    """Receives the events of a stream, in order; None where only the whole answer is wanted."""
    patient: bool = False
    """Whether an overloaded part is asked again after the delay that it names; for bulk work, which can wait."""
    _outcomes: dict[Part, Outcome] = field(default_factory=dict)
    _photograph: bytes = b""
    _began: float = 0.0
    _until: float = 0.0

    async def answer(self) -> gateway_pb2.AnalyzeResponse:
        """Returns the whole answer.

        Raises:
            MondrianError: the part of a single mode failed, every part of COMBINED did, or no service knows the
                advisor.
        """
        self._began = time.monotonic()
        self._until = self._began + self.seconds - margin_s(self.seconds)
        outcome = "cancelled"
        try:
            response = await self._answer()
            outcome = "partial" if response.failures else "whole"
            return response
        except MondrianError:
            outcome = "failed"
            raise
        finally:
            mode = gateway_pb2.Mode.Name(self.request.mode).removeprefix("MODE_").lower()
            MODE_SECONDS.labels(mode, outcome).observe(time.monotonic() - self._began)
            tracing.record(mode=mode, outcome=outcome)

    async def _answer(self) -> gateway_pb2.AnalyzeResponse:
        self._photograph = self.request.image.SerializeToString()
        naming = asyncio.create_task(self.directory.name(self.request.advisor))
        try:
            if self.request.grounded and self.request.mode == gateway_pb2.MODE_COMBINED:
                # The critique waits for the others, but never for more than half of the time.
                await self._run((SCORES, REFERENCES), (self._began + self._until) / 2, later={CRITIQUE})
                await self._run((CRITIQUE,), self._until)
            else:
                await self._run(PARTS[self.request.mode], self._until)
            self._refuse_without_reply()
            await asyncio.wait([naming], timeout=min(_NAME_GRACE_S, self._left()))
            name = naming.result() if naming.done() and not naming.cancelled() else self.request.advisor
        finally:
            naming.cancel()
            await asyncio.gather(naming, return_exceptions=True)
        return self._whole(name)

    def _left(self) -> float:
        """Returns the seconds that are left to ask somebody, 0 and more."""
        return max(0.0, self._until - time.monotonic())

    async def _run(self, parts: Collection[Part], until: float, later: Collection[Part] = ()) -> None:
        """Runs `parts` in parallel; their outcomes are recorded, and told to the stream, as they come."""
        tasks = {asyncio.create_task(self._outcome(part, until), name=f"part-{part}"): part for part in parts}
        pending = set(tasks)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._outcomes[tasks[task]] = task.result()
                    await self._tell(tasks[task], task.result())
                await self._refuse_unknown_advisor({tasks[task] for task in pending} | set(later))
        finally:
            # Cancelled upstream is cancelled downstream; and nobody waits for the rest of a refused request.
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _outcome(self, part: Part, until: float) -> Outcome:
        reply, failure = None, None
        with tracing.asking(NAMES[part]):
            try:
                reply = await self._ask(part, until)
            except MondrianError as error:
                failure = error
            code = code_of(failure) if failure else grpc.StatusCode.OK
            tracing.ended(code)
        seconds = time.monotonic() - self._began
        PART_SECONDS.labels(NAMES[part], code.name).observe(seconds)
        return Outcome(seconds * 1e3, reply, failure)

    async def _ask(self, part: Part, until: float) -> Reply:
        calls: Mapping[Part, Callable[[float], Awaitable[Reply]]] = {
            REFERENCES: self._references,
            SCORES: self._scores,
            CRITIQUE: self._critique if self.emit is None else self._streamed_critique,
        }
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise QueuedTooLong("The deadline had passed before the part could be asked; allow more time.")
            try:
                return await calls[part](left)
            except MondrianError as error:
                delay = error.retry_after_s if self.patient and error.reason == "OVERLOADED" else None
                if delay is None or time.monotonic() + delay >= until:
                    raise
                # With jitter, so that those who were refused together do not come back together.
                await asyncio.sleep(max(_LEAST_RETRY_S, delay) * random.uniform(1.0, 1.5))

    async def _references(self, timeout: float) -> Reply:
        request = embedder_pb2.SearchReferencesRequest(
            advisor=self.request.advisor,
            top_k=self.request.top_k,
            include_thumbnails=self.request.include_thumbnails,
        )
        return await self.backends.embedder.search(request, self._photograph, timeout, self.metadata)

    async def _scores(self, timeout: float) -> Reply:
        request = scorer_pb2.ScoreRequest(advisor=self.request.advisor)
        return await self.backends.scorer.score(request, self._photograph, timeout, self.metadata)

    async def _critique(self, timeout: float) -> Reply:
        return await self.backends.critic.critique(self._critique_request(), self._photograph, timeout, self.metadata)

    async def _streamed_critique(self, timeout: float) -> Reply:
        whole = critic_pb2.CritiqueResponse()
        pieces: list[str] = []
        ended = False
        events = self.backends.critic.stream(self._critique_request(), self._photograph, timeout, self.metadata)
        async with contextlib.aclosing(events):
            async for event in events:
                match event.WhichOneof("event"):
                    case "started":
                        whole.authorship.CopyFrom(event.started.authorship)
                        await self._refuse_unknown_voice(event.started.authorship)
                        await self._send(gateway_pb2.StreamAnalyzeResponse(critique_started=event.started))
                    case "delta":
                        pieces.append(event.delta.text)
                        await self._send(gateway_pb2.StreamAnalyzeResponse(critique_delta=event.delta))
                    case "completed":
                        ended = True
                        whole.completion.CopyFrom(event.completed.completion)
                        if event.completed.HasField("sections"):
                            whole.sections.CopyFrom(event.completed.sections)
                        await self._send(gateway_pb2.StreamAnalyzeResponse(critique_completed=event.completed))
        if not ended:
            raise EngineStopped("The critic broke off in the middle of the critique; try again.")
        whole.text = "".join(pieces)
        return whole

    def _critique_request(self) -> critic_pb2.CritiqueRequest:
        request = critic_pb2.CritiqueRequest(
            advisor=self.request.advisor,
            instruction=self.request.instruction,
            grounding=grounding(outcome.reply for outcome in self._outcomes.values()),
        )
        if self.request.HasField("generation_config"):
            request.generation_config.CopyFrom(self.request.generation_config)
        return request

    async def _refuse_unknown_advisor(self, pending: Collection[Part]) -> None:
        """Ends the request when no service knows its advisor.

        The embedder owns the advisors. Where an advisor has no adapter, the critic answers with its base model: right
        for an advisor with references, but an answer to another question for a misspelt id.
        """
        outcomes = self._outcomes.values()
        if any(outcome.reply is not None and not outcome.advisor_unknown for outcome in outcomes):
            return
        if not any(outcome.advisor_unknown for outcome in outcomes) or set(pending) - {CRITIQUE}:
            return
        references = self._outcomes.get(REFERENCES)
        if references is not None and not references.advisor_unknown:
            return
        advisor = self.request.advisor
        known = await self.directory.known(self._left(), self.metadata)
        if references is None and (known is None or advisor in known):
            return
        if CRITIQUE in pending and await self.directory.has_adapter(advisor, self._left(), self.metadata):
            return
        raise advisor_not_found(advisor, known)

    async def _refuse_unknown_voice(self, authorship: critic_pb2.Authorship) -> None:
        """Ends a stream of LORA before its first word when the embedder does not know the advisor either."""
        if authorship.fell_back and self.request.mode == gateway_pb2.MODE_LORA:
            known = await self.directory.known(self._left(), self.metadata)
            if known is not None and self.request.advisor not in known:
                raise advisor_not_found(self.request.advisor, known)

    def _refuse_without_reply(self) -> None:
        if any(outcome.reply is not None for outcome in self._outcomes.values()):
            return
        for part in READING_ORDER:
            outcome = self._outcomes.get(part)
            if outcome is not None and outcome.error is not None:
                raise outcome.error

    async def _tell(self, part: Part, outcome: Outcome) -> None:
        match outcome.reply:
            case embedder_pb2.SearchReferencesResponse() as references:
                await self._send(gateway_pb2.StreamAnalyzeResponse(references=references))
            case scorer_pb2.ScoreResponse() as scores:
                await self._send(gateway_pb2.StreamAnalyzeResponse(scores=scores))
        # The failure of a single mode's part is the status that the call ends with.
        if outcome.error is not None and self.request.mode == gateway_pb2.MODE_COMBINED:
            failure = gateway_pb2.Failure(part=part, status=status_of(outcome.error))
            await self._send(gateway_pb2.StreamAnalyzeResponse(failure=failure))

    async def _send(self, event: gateway_pb2.StreamAnalyzeResponse) -> None:
        if self.emit is not None:
            await self.emit(event)

    def _whole(self, name: str) -> gateway_pb2.AnalyzeResponse:
        response = gateway_pb2.AnalyzeResponse()
        for part, outcome in sorted(self._outcomes.items()):
            match outcome.reply:
                case embedder_pb2.SearchReferencesResponse() as references:
                    response.references.CopyFrom(references)
                case critic_pb2.CritiqueResponse() as critique:
                    response.critique.CopyFrom(critique)
                case scorer_pb2.ScoreResponse() as scores:
                    response.scores.CopyFrom(scores)
            if outcome.error is not None:
                response.failures.add(part=part, status=status_of(outcome.error))
            response.part_timings.add(part=part, elapsed_ms=outcome.elapsed_ms)
        summary.narrate(response, name)
        response.total_ms = (time.monotonic() - self._began) * 1e3
        return response
