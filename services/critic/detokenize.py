"""Text from tokens, piece by piece, never in the middle of a character."""

from __future__ import annotations

from typing import Any

_UNFINISHED = "�"


class TextAssembler:
    """Turns one row's tokens into pieces of text.

    The pieces joined, `flush` included, are what the tokenizer makes of all tokens at once. A token that ends inside
    a UTF-8 character is held back until the character is whole; what never becomes whole comes with `flush`, as the
    replacement character. Special tokens give no text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        # Text of tokens[:_read] has been given; decoding starts at _context, a piece earlier, because some
        # tokenizers write a leading blank differently at the beginning of a text.
        self._context = 0
        self._read = 0

    def push(self, token: int) -> str:
        """Returns the text that `token` completes; may be empty."""
        self._tokens.append(token)
        known, text = self._decoded()
        if text == known:
            # It says nothing, and would be decoded again with each one more.
            self._tokens.pop()
            return ""
        if len(text) <= len(known) or text.endswith(_UNFINISHED):
            return ""
        self._context, self._read = self._read, len(self._tokens)
        return text[len(known) :]

    def flush(self) -> str:
        """Returns what is still held back."""
        known, text = self._decoded()
        self._context = self._read = len(self._tokens)
        return text[len(known) :]

    def _decoded(self) -> tuple[str, str]:
        known = self._text(self._tokens[self._context : self._read])
        return known, self._text(self._tokens[self._context :])

    def _text(self, tokens: list[int]) -> str:
        # The tokenizer's core, without the wrapper's work, which would cost more than a step of a small model.
        text: str = self._tokenizer.backend_tokenizer.decode(tokens, skip_special_tokens=True)
        return text
