"""The one place that writes the text a vision-language model reads before it answers.

The text is Qwen's chat format, as the chat template of Qwen3-VL renders it with
`add_generation_prompt=True`; it is written here and not by the template so that the number of
image tokens is ours to set (the picture's own grid decides it) and so that nothing a client sends
can become a special token. The mini model and Qwen3-VL-4B-Instruct read exactly the same text, and
it is the same with and without an adapter: an advisor's voice comes from the adapter alone.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

IMAGE_TOKEN: Final = "<|image_pad|>"
"""One of these stands for each merged patch of the picture."""

SYSTEM_TEXT: Final = "You are a teacher of photography. Be short, honest and kind."
"""The system message of every critique."""

CRITIQUE_INSTRUCTION: Final = (
    "Write a critique of this photograph in a few short sentences: "
    "what you see, what is strong, what to try. State only what the picture shows."
)
"""What the model is asked when the client gives no instruction of its own."""

CONTEXT_HEADING: Final = "Known about this photograph:"
"""Opens the optional block of grounding context, after the instruction."""


class Form(enum.Enum):
    """How a critique is written: in one flow, under headings, or as JSON."""

    PROSE = "prose"
    SECTIONS = "sections"
    JSON = "json"


REQUESTS: Final[Mapping[Form, str]] = MappingProxyType(
    {
        Form.PROSE: "",
        Form.SECTIONS: (
            "Answer under four headings, each at the beginning of a line. Overview: what you see. Strengths: what is "
            "strong. To try: what to try. Voice: what you say of it in your own voice. Under Strengths and To try, "
            'each point is a line that begins with "- ".'
        ),
        Form.JSON: (
            "Answer with one JSON object and nothing else. Its fields: overview, what you see, a string; strengths, "
            "what is strong, a list of strings; to_try, what to try, a list of strings; voice, what you say of it in "
            "your own voice, a string."
        ),
    }
)
"""What the service itself adds behind the client's words, to have a critique in that form."""

MAX_INSTRUCTION_CHARS: Final = 1_000
"""Longest instruction that a client may send, in characters; a longer one is refused."""

MAX_CONTEXT_CHARS: Final = 1_200
"""Longest grounding context, in characters; what is beyond is cut at the end of a line."""

# Every special token of Qwen's tokenizers (<|im_start|>, <tool_call>, <think>, ...) opens with "<"
# and closes with ">". Without those two characters no text can spell one, in any vocabulary.
_ANGLES: Final = str.maketrans({"<": "[", ">": "]"})


class InstructionTooLongError(ValueError):
    """The instruction of a request is longer than `MAX_INSTRUCTION_CHARS`."""


def plain_text(text: str) -> str:
    """Returns `text` such that it cannot spell a special token of any Qwen vocabulary.

    Angle brackets become square ones, control characters other than the newline become
    spaces, unpaired surrogates (which no tokenizer can encode) become U+FFFD, and white space at
    both ends goes. Never longer than `text`.
    """
    printable = "".join(char if char == "\n" or char.isprintable() else _replacement(char) for char in text)
    return printable.translate(_ANGLES).strip()


def instruction_text(instruction: str | None) -> str:
    """Returns the instruction that the model reads: the client's in plain text, or the default one.

    None, an empty text and white space mean the default. Raises `InstructionTooLongError`, with the
    sentence to show, when the client's is longer than `MAX_INSTRUCTION_CHARS` characters.
    """
    if instruction is None:
        return CRITIQUE_INSTRUCTION
    if len(instruction) > MAX_INSTRUCTION_CHARS:
        raise InstructionTooLongError(
            f"The instruction has {len(instruction)} characters; send at most {MAX_INSTRUCTION_CHARS}."
        )
    return plain_text(instruction) or CRITIQUE_INSTRUCTION


def user_text(instruction: str | None = None, context: str | None = None, form: Form = Form.PROSE) -> str:
    """Returns the words of the user's turn, without the picture: instruction, context if any, and what asks for the
    form.

    The first two are made plain first. Raises `InstructionTooLongError`.
    """
    known = _cut_at_line(plain_text(context or ""), MAX_CONTEXT_CHARS)
    parts = [instruction_text(instruction), f"{CONTEXT_HEADING}\n{known}" if known else "", REQUESTS[form]]
    return "\n\n".join(part for part in parts if part)


def prompt_text(
    instruction: str | None = None, *, image_tokens: int, context: str | None = None, form: Form = Form.PROSE
) -> str:
    """Returns the whole prompt, from the system message to the start of the assistant's turn.

    `image_tokens` (at least 1) is the number of merged patches of the picture,
    `image_grid_thw.prod() // merge_size**2`: so many `<|image_pad|>` stand in the text, and the
    tokenizer adds nothing to it. Raises `InstructionTooLongError`, and ValueError for no image token.
    """
    if image_tokens < 1:
        raise ValueError(f"a critique needs at least one image token, got {image_tokens}")
    picture = f"<|vision_start|>{IMAGE_TOKEN * image_tokens}<|vision_end|>"
    return (
        f"<|im_start|>system\n{SYSTEM_TEXT}<|im_end|>\n"
        f"<|im_start|>user\n{picture}{user_text(instruction, context, form)}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def _replacement(char: str) -> str:
    return "�" if "\ud800" <= char <= "\udfff" else " "


def _cut_at_line(text: str, limit: int) -> str:
    """Returns `text`, or as many of its whole first lines as fit into `limit` characters."""
    if len(text) <= limit:
        return text
    head = text[: limit + 1]
    return head[: head.rindex("\n")].rstrip() if "\n" in head else text[:limit]
