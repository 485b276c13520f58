"""Pieces of text: whole characters, and together what the tokenizer makes of all tokens."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.critic.detokenize import TextAssembler
from tests.fakes.critic import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def pieces(tokens: list[int]) -> list[str]:
    assembler = TextAssembler(TOKENIZER)
    return [*(assembler.push(token) for token in tokens), assembler.flush()]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
@example("<|vision_start|>")
def test_text_of_any_script_comes_whole(text: str) -> None:
    # Words that spell a special token are words here: what a model writes is made of plain tokens.
    given = pieces(TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    assert "".join(given) == text
    # The tokens are bytes: a piece that broke a character would hold a replacement character.
    assert all("�" not in piece for piece in given) or "�" in text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40))
def test_any_tokens_give_what_the_tokenizer_makes_of_them(tokens: list[int]) -> None:
    given = pieces(tokens)
    assert "".join(given) == TOKENIZER.decode(tokens, skip_special_tokens=True)
    "".join(given).encode("utf-8")


def test_a_character_is_held_back_until_it_is_whole() -> None:
    assert pieces(TOKENIZER("a📷", add_special_tokens=False)["input_ids"]) == ["a", "", "", "", "📷", ""]


def test_an_unfinished_character_comes_at_the_end() -> None:
    tokens = TOKENIZER("a📷", add_special_tokens=False)["input_ids"][:-1]
    assert pieces(tokens) == ["a", "", "", "", "�"]


def test_special_tokens_give_no_text() -> None:
    assert "".join(pieces(TOKENIZER("<|im_start|>a<|im_end|>", add_special_tokens=False)["input_ids"])) == "a"


def test_tokens_that_give_no_text_are_not_decoded_again_with_each_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, lengths = TextAssembler._text, []

    def counted(assembler: TextAssembler, tokens: list[int]) -> str:
        lengths.append(len(tokens))
        return decode(assembler, tokens)

    monkeypatch.setattr(TextAssembler, "_text", counted)
    letter, silent = TOKENIZER("a<|vision_start|>", add_special_tokens=False)["input_ids"]
    assert pieces([letter, *[silent] * 100]) == ["a", *[""] * 101]
    assert max(lengths) == 2
