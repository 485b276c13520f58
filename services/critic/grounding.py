"""Which works a critique names, and whether it was given them.

A critique with context may lean on the references that came with the request and must not invent others. Titles are
recognised where they are quoted; the check counts, and never changes a text that has been streamed already.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

# A quoted phrase that opens with a capital letter: a title, and not a word that is only set apart.
_QUOTED: Final = re.compile(r"[\"“«]\s*([A-Z][^\"“”«»\n]{2,118}?)\s*[\"”»]")


def invented_titles(critique: str, given: Sequence[str]) -> list[str]:
    """Returns the quoted titles in `critique` that are none of those `given`, in order, each once.

    Case, white space and a final full stop or comma do not tell titles apart; a quoted beginning of a given title
    counts as that title.
    """
    known = [_plain(title) for title in given]
    found = dict.fromkeys(match[1] for match in _QUOTED.finditer(critique))
    return [title for title in found if not any(one.startswith(_plain(title)) for one in known)]


def _plain(title: str) -> str:
    return " ".join(title.split()).rstrip(".,;:").casefold()
