"""Sentences as text: where one ends, and how it is set into another."""

from __future__ import annotations

import re
from typing import Final

_LONGEST: Final = 300
_COMMON_BEGINNINGS: Final = ("The", "There", "This", "No", "Nothing", "None", "A", "An", "All", "It", "What")
# Where a script has spaces and capitals, a sentence ends at a mark with its closing quotes, if white space and anything
# but a small letter follow; and not after these abbreviations.
_ENDS: Final = re.compile(r"[.!?…]+[\"”’')\]]*(?=\s+[\"“‘'(\[]*([^\W_]))|[。！？]+[」』”’）]*|\n\s*\n|\n(?=\s*[-*•\d])")
_ABBREVIATIONS: Final = frozenset(
    ("e.g.", "i.e.", "cf.", "etc.", "vs.", "approx.", "fig.", "ca.", "st.", "mt.", "mr.", "mrs.", "ms.", "dr.", "prof.")
)


def sentences_of(text: str) -> list[str]:
    """Returns the sentences of a text in order, white space between words made single; empty for an empty text."""
    sentences: list[str] = []
    start = 0
    for end in _ENDS.finditer(text):
        if (end[1] or "").islower():
            continue
        words = text[start : end.end()].split()
        last = words[-1] if words else ""
        initial = len(last) == 2 and last[0].isupper() and last[1] == "."
        if initial or last.lower().lstrip("([“\"'") in _ABBREVIATIONS:
            continue
        if words:
            sentences.append(" ".join(words))
        start = end.end()
    rest = " ".join(text[start:].split())
    return [*sentences, rest] if rest else sentences


def shortened(sentence: str) -> str:
    """Returns a sentence of at most 300 characters: whole words of a longer one, where its script divides them."""
    if len(sentence) <= _LONGEST:
        return sentence
    head = sentence[: _LONGEST - 1]
    words = head.rpartition(" ")[0]
    return f"{words if len(words) > len(head) // 2 else head[:-1]} …"


def within(sentence: str) -> str:
    """Returns a sentence as it goes on behind a colon: its first word in lower case where that is no name."""
    first, space, rest = sentence.strip().partition(" ")
    return f"{first.lower() if first in _COMMON_BEGINNINGS else first}{space}{rest}"


def ended(sentence: str) -> str:
    """Returns a sentence with a mark at its end."""
    sentence = sentence.strip()
    return sentence if sentence.endswith((".", "!", "?", "…", ".”", "!”", "?”")) else f"{sentence}."
