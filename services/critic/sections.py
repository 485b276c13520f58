"""A critique's sections: overview, strengths, what to try, and a word in the advisor's own voice.

Where the prompt asks for them, a critique is written under headings or as JSON; here its text is read back. Nothing is
guessed: what stands under no heading is overview, and a text without any heading is overview as a whole.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from services.critic.prompts import Form

# As models write them: "Strengths:", "## Strengths", "**To try:** ...", "2. Strengths". A heading begins a line or a
# sentence and ends with a colon; without a colon it stands alone in its line.
_NAMES: Final = {
    "overview": "overview",
    "strengths": "strengths",
    "to_try": "(?:what )?to try",
    "voice": "(?:in (?:my|your|the advisor's) (?:own )?)?voice",
}
_ANY: Final = "|".join(f"(?P<{field}>{name})" for field, name in _NAMES.items())
_MARKS: Final = r"[ \t]*(?:\#{1,6}[ \t]*)?[*_]{0,3}(?:\d{1,2}[.)][ \t]+)?[*_]{0,3}"
_HEADING: Final = re.compile(
    rf"(?:^{_MARKS}|(?<=[.!?][ ]))(?:{_ANY})[*_]{{0,3}}(?::[*_]{{0,3}}|(?=[ \t]*$))", re.IGNORECASE | re.MULTILINE
)
_POINT: Final = re.compile(r"^[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]+", re.MULTILINE)


@dataclass(frozen=True)
class Sections:
    """What a critique says, by section; `undivided`: nothing divides it, and `overview` is the whole of it."""

    overview: str = ""
    strengths: tuple[str, ...] = ()
    to_try: tuple[str, ...] = ()
    voice: str = ""
    undivided: bool = False

    @property
    def words(self) -> str:
        """Returns all that is said, a line a section or point."""
        return "\n".join([self.overview, *self.strengths, *self.to_try, self.voice])


def read(form: Form, text: str) -> Sections:
    """Returns the sections of a critique that was asked for in `form`; an empty point is left out.

    Raises ValueError where a text that should be JSON is none.
    """
    if form is Form.JSON:
        fields = json.loads(text)
        strengths, to_try = (tuple(filter(str.strip, fields[field])) for field in ("strengths", "to_try"))
        return Sections(fields["overview"], strengths, to_try, fields["voice"])
    headings = list(_HEADING.finditer(text))
    if not headings:
        return Sections(overview=text, undivided=True)
    found = dict.fromkeys(_NAMES, "")
    found["overview"] = text[: headings[0].start()]
    for heading, end in zip(headings, [*(each.start() for each in headings[1:]), len(text)], strict=True):
        found[heading.lastgroup or ""] += "\n" + text[heading.end() : end]
    return Sections(
        found["overview"].strip(), _points(found["strengths"]), _points(found["to_try"]), found["voice"].strip()
    )


def _points(text: str) -> tuple[str, ...]:
    """Returns the points of a list: what stands behind each mark, or else all of it as one; none is empty."""
    points = _POINT.split(text)
    return tuple(" ".join(point.split()) for point in points if point.strip())
