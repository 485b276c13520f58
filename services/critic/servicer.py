"""CriticService: every rpc converts, calls and converts."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc

from services.core.errors import fields_of
from services.core.identifiers import asked_advisor
from services.core.rpc.deadlines import Context, deadline_of
from services.core.rpc.pages import page
from services.core.telemetry import tracing
from services.critic import metrics
from services.critic.conversions import (
    adapter_message,
    authorship,
    completion,
    form,
    grounding_text,
    grounding_titles,
    sampling_params,
    sections,
)
from services.critic.critiques import Asked, Critiques, Writing
from services.critic.engine import Completed, Delta, Event
from services.critic.grounding import invented_titles
from services.critic.sections import read
from services.critic.settings import CriticSettings


class CriticServicer(critic_pb2_grpc.CriticServiceServicer):
    """Has its critiques begun by what `critiques` returns, which raises NotReady while the model is being loaded."""

    def __init__(self, critiques: Callable[[], Critiques], settings: CriticSettings) -> None:
        self._critiques = critiques
        self._settings = settings

    async def Critique(self, request: critic_pb2.CritiqueRequest, context: Context) -> critic_pb2.CritiqueResponse:
        """Returns a whole critique."""
        asked = self._asked(request, context)
        writing = await self._critiques().begin(asked)
        response = critic_pb2.CritiqueResponse(authorship=authorship(writing.voice, self._settings.served_name))
        pieces: list[str] = []
        async for event in _events(writing):
            if isinstance(event, Delta):
                pieces.append(event.text)
            elif isinstance(event, Completed):
                response.text = "".join(pieces)
                done = _completed(writing, event, response.text)
                response.completion.CopyFrom(done.completion)
                response.sections.CopyFrom(done.sections)
        return response

    async def StreamCritique(
        self, request: critic_pb2.StreamCritiqueRequest, context: Context
    ) -> AsyncIterator[critic_pb2.StreamCritiqueResponse]:
        """Streams a critique as it is written."""
        with fields_of("request"):
            asked = self._asked(request.request, context)
            writing = await self._critiques().begin(asked)
        events = _events(writing)
        pieces: list[str] = []
        try:
            async for event in events:
                if isinstance(event, Delta):
                    pieces.append(event.text)
                    yield critic_pb2.StreamCritiqueResponse(delta=critic_pb2.Delta(text=event.text))
                elif isinstance(event, Completed):
                    done = _completed(writing, event, "".join(pieces))
                    yield critic_pb2.StreamCritiqueResponse(completed=done)
                else:
                    author = authorship(writing.voice, self._settings.served_name)
                    yield critic_pb2.StreamCritiqueResponse(started=critic_pb2.Started(authorship=author))
        finally:
            # A client that leaves between two pieces ends the critique here.
            await events.aclose()

    async def ListAdapters(
        self, request: critic_pb2.ListAdaptersRequest, context: Context
    ) -> critic_pb2.ListAdaptersResponse:
        """Lists the adapters that this replica knows, by name."""
        entries = self._critiques().registry.entries()
        chosen, token = page(entries, request.page_size, request.page_token, lambda entry: entry.name)
        return critic_pb2.ListAdaptersResponse(
            adapters=[adapter_message(entry) for entry in chosen],
            next_page_token=token,
            model=self._settings.served_name,
        )

    def _asked(self, request: critic_pb2.CritiqueRequest, context: Context) -> Asked:
        deadline = deadline_of(context)
        return Asked(
            content=request.image.content,
            advisor=asked_advisor(request.advisor, required=False),
            instruction=request.instruction,
            context=grounding_text(request.grounding),
            titles=tuple(grounding_titles(request.grounding)),
            params=sampling_params(request.generation_config, self._settings),
            deadline=time.monotonic() + self._settings.default_timeout_s if deadline is None else deadline,
            form=form(request.generation_config),
        )


async def _events(writing: Writing) -> AsyncGenerator[Event, None]:
    """Yields a critique's events, and stops its writing when nobody reads on."""
    metrics.ROWS.inc()
    try:
        async for event in writing.generation:
            yield event
    finally:
        metrics.ROWS.dec()
        writing.generation.cancel()


def _completed(writing: Writing, done: Completed, text: str) -> critic_pb2.Completed:
    """Returns how a critique went and its sections, and counts it."""
    message = completion(done, writing.prepared_s)
    metrics.FIRST_TOKEN_SECONDS.observe(message.time_to_first_token_ms / 1e3)
    metrics.TOKENS.labels("prompt").inc(done.prompt_tokens)
    metrics.TOKENS.labels("completion").inc(len(done.tokens))
    metrics.FINISHED.labels(done.finish.value).inc()
    tracing.record(
        finish_reason=done.finish.value,
        completion_tokens=message.completion_tokens,
        queue_ms=message.queue_ms,
        prefill_ms=message.prefill_ms,
        decode_ms=message.decode_ms,
    )
    if writing.voice.reason:
        metrics.FELL_BACK.inc()
    found = read(writing.asked.form, text)
    if writing.asked.context is not None:
        metrics.INVENTED.inc(len(invented_titles(found.words, writing.asked.titles)))
    return critic_pb2.Completed(completion=message, sections=sections(found))
