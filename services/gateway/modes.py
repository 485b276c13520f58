"""What a mode asks for, and what a request must look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from mondrian.critic.v1 import critic_pb2
from mondrian.gateway.v1 import gateway_pb2

from services.core.errors import InvalidArgument, InvalidImage
from services.core.identifiers import asked_advisor

Mode: TypeAlias = gateway_pb2.Mode.ValueType
Part: TypeAlias = gateway_pb2.Part.ValueType

REFERENCES: Final = gateway_pb2.PART_REFERENCES
CRITIQUE: Final = gateway_pb2.PART_CRITIQUE
SCORES: Final = gateway_pb2.PART_SCORES

# Slowest first: the photograph is sent first to the part that the others will wait for.
PARTS: Final[Mapping[Mode, tuple[Part, ...]]] = {
    gateway_pb2.MODE_CLIP: (REFERENCES,),
    gateway_pb2.MODE_LORA: (CRITIQUE,),
    gateway_pb2.MODE_DIMENSIONAL: (SCORES,),
    gateway_pb2.MODE_COMBINED: (CRITIQUE, SCORES, REFERENCES),
}
READING_ORDER: Final = (REFERENCES, SCORES, CRITIQUE)
"""The order in which a person reads the parts; also the order in which a failure of all of them is reported."""

MAX_TOP_K: Final = 100
MAX_INSTRUCTION_CHARS: Final = 1_000
MAX_KEY_CHARS: Final = 256


def validate(request: gateway_pb2.AnalyzeRequest) -> None:
    """Checks what can be checked without a backend, so that a wrong request never reaches a model.

    Raises:
        InvalidArgument: the mode or the advisor is missing, or an option is out of range; `field` names it.
        InvalidImage: the photograph is missing or empty.
    """
    if request.mode not in PARTS:
        raise InvalidArgument("Choose a mode: MODE_CLIP, MODE_LORA, MODE_DIMENSIONAL or MODE_COMBINED.", field="mode")
    if not request.image.content:
        raise InvalidImage(
            "The photograph is missing; send the bytes of its file.", reason="IMAGE_EMPTY", field="image.content"
        )
    asked_advisor(request.advisor, required=True)
    if not 0 <= request.top_k <= MAX_TOP_K:
        raise InvalidArgument(
            f"top_k must be 1 to {MAX_TOP_K}, or 0 for the default of 3; it is {request.top_k}.", field="top_k"
        )
    if len(request.instruction) > MAX_INSTRUCTION_CHARS:
        raise InvalidArgument(
            f"The instruction has {len(request.instruction):,} characters; at most {MAX_INSTRUCTION_CHARS:,} are read.",
            field="instruction",
        )
    _validate_generation(request.generation_config)


def _validate_generation(config: critic_pb2.GenerationConfig) -> None:
    # Written so that a value that is not a number fails too.
    if config.HasField("max_tokens") and not config.max_tokens >= 1:
        raise _out_of_range("max_tokens", "1 or more")
    if config.HasField("temperature") and not 0 <= config.temperature <= 2:
        raise _out_of_range("temperature", "0 to 2")
    if config.HasField("top_p") and not 0 < config.top_p <= 1:
        raise _out_of_range("top_p", "above 0 and at most 1")
    if config.HasField("repetition_penalty") and not 1 <= config.repetition_penalty <= 2:
        raise _out_of_range("repetition_penalty", "1 to 2")


def _out_of_range(name: str, span: str) -> InvalidArgument:
    return InvalidArgument(f"{name} must be {span}; leave it unset for the default.", field=f"generation_config.{name}")
