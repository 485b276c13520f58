"""Critiques as JSON: a grammar says, token by token, what a row may write next (xgrammar, arXiv 2411.15100).

The grammar makes whatever is written the beginning of a valid critique. That it also ends as one is decided here: a
row whose model has no more to say, or whose next token would leave too few for it, is closed along the shortest way.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

import numpy as np
import torch
import xgrammar

SHORTEST: Final = '{"overview": "", "strengths": [], "to_try": [], "voice": ""}'
"""The shortest critique: its fields in their order, strings for overview and voice, lists of strings between."""

# Right-linear, so that whether a token may come depends on nothing before it: with one rule for all strings, masking a
# row takes a hundred times as long. Strings hold no control character (C0, DEL, C1), raw or escaped, and no \u, which
# could be half of a surrogate pair: what may be written is valid for the strictest parser.
GRAMMAR: Final = r"""
root ::= "{\"overview\": \"" char* "\", \"strengths\": [" ("]" to_try | "\"" strength)
strength ::= char* ("\", \"" strength | "\"]" to_try)
to_try ::= ", \"to_try\": [" ("]" voice | "\"" attempt)
attempt ::= char* ("\", \"" attempt | "\"]" voice)
voice ::= ", \"voice\": \"" char* "\"}"
char ::= [^"\\\x00-\x1f\x7f-\x9f] | "\\" ["\\/]
"""

_PUNCTUATION: Final = b'{}[]:," '
# Ends a string; begins or ends a list; and goes on with an unfinished character, whose lead byte rules the next.
_STEPS: Final = (b"]", b'"', b"\x80", b"\x90", b"\xa0")
# The bytes, and so at most the tokens, from anywhere to the end: an unfinished character or escape comes on top.
_LONGEST_WAY: Final = len(SHORTEST) + 3


class JsonGrammar:
    """The grammar, compiled for one vocabulary: in milliseconds, or a second for one of 150,000 tokens."""

    def __init__(self, tokenizer: Any, vocabulary: int, end_ids: Collection[int]) -> None:
        self.ends = frozenset(token for token in end_ids if token < vocabulary)
        known = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=vocabulary, stop_token_ids=sorted(self.ends)
        )
        texts: list[bytes] = known.decoded_vocab
        self.punctuation = frozenset(token for token, text in enumerate(texts) if text and not text.strip(_PUNCTUATION))
        self._compiled = xgrammar.GrammarCompiler(known, max_threads=1).compile_grammar(GRAMMAR)
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._bytes = {text: token for token, text in enumerate(texts) if len(text) == 1}
        self._end_bits = self._bits(self.ends)
        self._letter_bits = self._bits([self._bytes[b"a"]])
        self.least_tokens = len(self.way_out(self._matcher()))

    def _bits(self, tokens: Collection[int]) -> Any:
        bits = np.zeros(xgrammar.get_bitmask_shape(1, self._vocabulary)[1], dtype=np.uint32)
        for token in tokens:
            bits[token // 32] |= np.uint32(1 << token % 32)
        return bits

    def _matcher(self) -> Any:
        return xgrammar.GrammarMatcher(self._compiled, terminate_without_stop_token=True)

    def guide(self, limit: int) -> JsonGuide:
        """Returns the guide of one row through the grammar. `limit` >= `least_tokens`."""
        return JsonGuide(self, self._matcher(), limit)

    def way_out(self, matcher: Any) -> list[int]:
        """Returns the tokens of the shortest way from a matcher's state to the end of the critique."""
        end, way = matcher.fork(), b""
        while not end.is_terminated():
            only = end.find_jump_forward_string().encode()
            within = not only and end.fork().accept_string("a")
            steps = (only,) if only else (b'"',) if within else _STEPS
            way += next(step for step in steps if end.accept_string(step))
        unfinished = sum(byte >= 0x80 for byte in way)
        ids = self._tokenizer(way[unfinished:].decode("ascii"), add_special_tokens=False)["input_ids"]
        return [*(self._bytes[bytes([byte])] for byte in way[:unfinished]), *ids]

    def mask(self, logits: torch.Tensor, matchers: Mapping[int, Any]) -> None:
        """Takes from rows of `logits` [rows, vocabulary] what the row's matcher forbids, in place.

        Within a string, a token that ends the text stays: it says that the model has no more to say.
        """
        bits = xgrammar.allocate_token_bitmask(max(matchers) + 1, self._vocabulary)
        words = bits.numpy().view(np.uint32)
        for row, matcher in matchers.items():
            matcher.fill_next_token_bitmask(bits, row)
            if (words[row] & self._letter_bits).any():
                words[row] |= self._end_bits
        # xgrammar's own kernel on a CPU; elsewhere torch's operations, which need no compiler at run time.
        backend: Literal["cpu", "torch_native"] = "cpu" if logits.device.type == "cpu" else "torch_native"
        xgrammar.apply_token_bitmask_inplace(logits, bits.to(logits.device), indices=list(matchers), backend=backend)


class JsonGuide:
    """Leads one row: what it may write next, and what is written in the place of a token that it may not.

    `complete`: the text is a whole critique. `cut`: it was closed because the limit of tokens was near.
    """

    def __init__(self, grammar: JsonGrammar, matcher: Any, limit: int) -> None:
        self.grammar = grammar
        self.matcher = matcher
        self.complete = False
        self.cut = False
        self._left = limit
        self._closing: collections.deque[int] = collections.deque()

    @property
    def closing(self) -> bool:
        """Whether the rest is settled."""
        return bool(self._closing)

    def settle(self, token: int) -> int:
        """Returns the token that is written where the row chose `token`."""
        if not self._closing and not self._accepts(token):
            self._closing.extend(self.grammar.way_out(self.matcher))
        self._left -= 1
        if self._closing:
            token = self._closing.popleft()
            self.complete = not self._closing
        else:
            self.complete = self.matcher.is_terminated()
        return token

    def _accepts(self, token: int) -> bool:
        """Returns whether the critique goes on with `token`, after which it must still fit into what is left."""
        if token in self.grammar.ends or not self.matcher.accept_token(token):
            return False
        if self._left - 1 < _LONGEST_WAY and self._left - 1 < len(self.grammar.way_out(self.matcher)):
            self.matcher.rollback(1)
            self.cut = True
            return False
        return True


def constrain(logits: torch.Tensor, guides: Mapping[int, JsonGuide]) -> None:
    """Takes from the rows of `logits` [rows, vocabulary] that have a guide what they may not write, in place."""
    free = {row: guide for row, guide in guides.items() if not guide.closing}
    if free:
        grammar = next(iter(free.values())).grammar
        grammar.mask(logits, {row: guide.matcher for row, guide in free.items()})
