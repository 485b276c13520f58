"""The rule for an advisor's id, one for folders, releases and requests; and how to print the name of a file, which may
hold anything."""

from __future__ import annotations

import os
import re
import unicodedata
from typing import Final

from services.core.errors import InvalidArgument

ADVISOR_ID: Final = re.compile(r"[a-z0-9-]{1,64}")
"""The whole of an advisor's id."""
# The categories of control characters, halves of a pair, and separators of lines.
_UNPRINTABLE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Characters that turn the direction of the text behind them.
_TURNS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def asked_advisor(advisor: str, *, required: bool) -> str:
    """Returns the advisor's id that a request gives, the empty one included unless it is required.

    Whether there is such an advisor is another question, which ends in AdvisorNotFound.

    Raises:
        InvalidArgument: it is no id, or it is missing; `field` is "advisor".
    """
    if not advisor and required:
        raise InvalidArgument("Name an advisor; ListAdvisors shows which there are.", field="advisor")
    if advisor and not ADVISOR_ID.fullmatch(advisor):
        raise InvalidArgument(
            "An advisor's id has 1 to 64 characters, each a-z, 0-9 or a hyphen; ListAdvisors shows which there are.",
            field="advisor",
        )
    return advisor


def legible(name: str) -> str:
    """Returns a file's name with everything escaped that is not text or would move a terminal's cursor."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    return "".join(each if printable(each) else each.encode("unicode_escape").decode() for each in text)


def printable(character: str) -> bool:
    """Returns whether a character belongs to a line of text and does not affect those around it."""
    return unicodedata.category(character) not in _UNPRINTABLE and character not in _TURNS
