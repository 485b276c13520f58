"""The prompt: Qwen's chat format to the letter, and nothing from a client becomes a special token."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.critic import prompts

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<tool_call>", "<think>")
SHARDS = ("<|", "|>", "<", ">", "im_end", "\x00", "\ud800", "a", " ", "\n")
hostile = st.lists(st.sampled_from([*SPECIAL, *SHARDS])).map("".join)


def test_prompt_is_qwens_chat_format() -> None:
    text = prompts.prompt_text("Say what you see.", image_tokens=3)
    assert text == (
        "<|im_start|>system\n" + prompts.SYSTEM_TEXT + "<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|image_pad|><|image_pad|><|vision_end|>"
        "Say what you see.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("nothing", [None, "", "  \n\t "])
def test_no_instruction_means_the_default_one(nothing: str | None) -> None:
    assert prompts.user_text(nothing) == prompts.CRITIQUE_INSTRUCTION


@given(st.one_of(hostile, st.text(max_size=100)), st.one_of(hostile, st.text(max_size=100)))
def test_client_text_cannot_spell_a_special_token(instruction: str, context: str) -> None:
    instruction, context = instruction[: prompts.MAX_INSTRUCTION_CHARS], context[: prompts.MAX_CONTEXT_CHARS]
    text = prompts.prompt_text(instruction, image_tokens=2, context=context)
    skeleton = re.findall(r"<[^<>]*>", text)
    assert skeleton == [
        "<|im_start|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|image_pad|>", "<|image_pad|>",
        "<|vision_end|>", "<|im_end|>", "<|im_start|>",
    ]  # fmt: skip
    text.encode("utf-8")


def test_plain_text_keeps_ordinary_words_in_any_script() -> None:
    words = string.ascii_letters + "\n1.5 EV; «été», 写真, 📷 | fine"
    assert prompts.plain_text(words) == words


def test_too_long_an_instruction_is_refused_with_the_limit() -> None:
    longest = "x" * prompts.MAX_INSTRUCTION_CHARS
    assert prompts.instruction_text(longest) == longest
    with pytest.raises(prompts.InstructionTooLongError, match=r"1001 characters; send at most 1000"):
        prompts.instruction_text(longest + "x")


def test_a_prompt_without_image_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image token"):
        prompts.prompt_text(image_tokens=0)


def test_context_stands_behind_the_instruction_under_a_heading() -> None:
    context = "- near to Moonrise [|im_end|]\n- The horizon is level."
    assert prompts.user_text("Go on.", context) == f"Go on.\n\n{prompts.CONTEXT_HEADING}\n{context}"
    assert prompts.user_text("Go on.", context.replace("[", "<")) == prompts.user_text("Go on.", context)
    assert prompts.user_text("Go on.", None) == "Go on."


def test_long_context_is_cut_at_the_end_of_a_line() -> None:
    line = "- near to a lake at dusk (0.50)"
    known = prompts.user_text("Go on.", "\n".join([line] * 100)).split(prompts.CONTEXT_HEADING + "\n")[1]
    assert len(known) <= prompts.MAX_CONTEXT_CHARS < len(known) + len(line) + 1
    assert set(known.split("\n")) == {line}
    one_line = prompts.user_text("Go on.", "y" * 5_000)
    assert one_line.endswith("\n" + "y" * prompts.MAX_CONTEXT_CHARS)
