"""Between the contract's messages and the service's own terms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from mondrian.critic.v1 import critic_pb2

from services.core.errors import InvalidArgument
from services.critic.adapters import Entry, State, Voice
from services.critic.engine import Completed, Finish
from services.critic.prompts import Form
from services.critic.sampling import SamplingParams
from services.critic.sections import Sections
from services.critic.settings import CriticSettings

_MAX_REFERENCES: Final = 8
_MAX_FINDINGS: Final = 16
_FINISH: Final = {
    Finish.STOP: critic_pb2.FINISH_REASON_STOP,
    Finish.LENGTH: critic_pb2.FINISH_REASON_LENGTH,
}
_FORM: Final = {
    critic_pb2.OUTPUT_FORMAT_UNSPECIFIED: Form.PROSE,
    critic_pb2.OUTPUT_FORMAT_PROSE: Form.PROSE,
    critic_pb2.OUTPUT_FORMAT_JSON: Form.JSON,
    critic_pb2.OUTPUT_FORMAT_SECTIONS: Form.SECTIONS,
}
_STATE: Final = {
    State.READY: critic_pb2.ADAPTER_STATE_READY,
    State.LOADING: critic_pb2.ADAPTER_STATE_LOADING,
    State.REFUSED: critic_pb2.ADAPTER_STATE_REFUSED,
    State.DRAINING: critic_pb2.ADAPTER_STATE_DRAINING,
}


def form(config: critic_pb2.GenerationConfig) -> Form:
    """Returns the form that the critique is to have. Raises `InvalidArgument` for one that does not exist."""
    if config.output_format not in _FORM:
        raise InvalidArgument(
            f"output_format is {config.output_format}; it must be one of OutputFormat's values.",
            field="generation_config.output_format",
        )
    return _FORM[config.output_format]


def sampling_params(config: critic_pb2.GenerationConfig, settings: CriticSettings) -> SamplingParams:
    """Returns how the text is to be written. Raises `InvalidArgument` for what is out of range."""

    def number(field: str, default: float, low: float, high: float, *, above: bool = False) -> float:
        if not config.HasField(field):  # type: ignore[arg-type]
            return default
        given = getattr(config, field)
        value = float(given)
        if math.isnan(value) or not low <= value <= high or (above and value == low):
            # As a float32, which it came as: shortened it could be one that is taken.
            shown = given if isinstance(given, int) else np.float32(given)
            raise InvalidArgument(
                f"{field} is {shown!s}; it must be {'above ' if above else ''}{low:g} to {high:g}.",
                field=f"generation_config.{field}",
            )
        return value

    return SamplingParams(
        max_tokens=int(number("max_tokens", min(settings.default_tokens, settings.max_tokens), 1, settings.max_tokens)),
        temperature=number("temperature", 0.0, 0, 2),
        top_p=number("top_p", 1.0, 0, 1, above=True),
        repetition_penalty=number("repetition_penalty", 1.0, 1, 2),
        seed=config.seed if config.HasField("seed") else None,
        json=form(config) is Form.JSON,
    )


def grounding_titles(grounding: critic_pb2.Grounding) -> list[str]:
    """Returns the titles of the references that a critique may name. Raises `InvalidArgument` for too many."""
    _limit("references", grounding.references, _MAX_REFERENCES)
    return [reference.title for reference in grounding.references if reference.title]


def grounding_text(grounding: critic_pb2.Grounding) -> str | None:
    """Returns what the critique may build on, one line each, nearest references first; None where nothing is known."""
    _limit("findings", grounding.findings, _MAX_FINDINGS)
    near = [f"- near to {_one_line(title)}" for title in grounding_titles(grounding)]
    return "\n".join([*near, *(f"- {_one_line(finding)}" for finding in grounding.findings)]) or None


def _limit(field: str, items: Sequence[object], most: int) -> None:
    if len(items) > most:
        raise InvalidArgument(f"{field} has {len(items)} entries; send at most {most}.", field=f"grounding.{field}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def authorship(voice: Voice, model: str) -> critic_pb2.Authorship:
    """Returns who writes."""
    return critic_pb2.Authorship(
        model=model,
        adapter=voice.name,
        adapter_revision=voice.revision,
        fell_back=bool(voice.reason),
        fallback_reason=voice.reason,
    )


def completion(done: Completed, before_s: float) -> critic_pb2.Completion:
    """Returns how it went; `before_s` are the seconds from arrival to the engine (decoding, preparing)."""
    return critic_pb2.Completion(
        finish_reason=_FINISH[done.finish],
        prompt_tokens=done.prompt_tokens,
        image_tokens=done.image_tokens,
        completion_tokens=len(done.tokens),
        time_to_first_token_ms=(before_s + done.first_token_s) * 1e3,
        queue_ms=done.queue_s * 1e3,
        prefill_ms=(before_s + done.prefill_s) * 1e3,
        decode_ms=done.decode_s * 1e3,
    )


def sections(found: Sections) -> critic_pb2.Sections:
    """Returns what a critique says, by section."""
    return critic_pb2.Sections(**dataclasses.asdict(found))


def adapter_message(entry: Entry) -> critic_pb2.Adapter:
    """Returns an adapter as this replica sees it."""
    return critic_pb2.Adapter(
        name=entry.name,
        revision=entry.revision,
        state=_STATE[entry.state],
        reason=entry.reason,
        rank=entry.rank,
        size_bytes=entry.size_bytes,
    )
