"""The mini critiques in the forms that a client may ask for, prose, headings and JSON: written, and read back."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Final

from deploy.mini import critiques
from services.critic.prompts import Form
from services.critic.sections import Sections, read

_LABEL: Final = "To try: "


def compose(
    facts: Mapping[str, str | None], choice: random.Random, voice: str | None, unsure: frozenset[str], form: Form
) -> str:
    """Returns a true critique in a form; see `critiques.compose`, which writes the prose.

    Under headings and as JSON: opening, color and light are the overview; two strengths and one thing to try are in
    nobody's voice; and what the voice says, where there is one, is a strength and a thing to try of its own.
    """
    if form is Form.PROSE:
        return critiques.compose(facts, choice, voice, unsure)
    overview = critiques.overview(facts, choice, unsure)
    plain = critiques.closing(("strong", "strong", "try"), facts, choice, None, unsure)
    said = critiques.closing(("strong", "try"), facts, choice, voice, unsure) if voice else []
    attempt = plain[2].text.removeprefix(_LABEL)
    sections = Sections(
        overview=" ".join(sentence.text for sentence in overview),
        strengths=tuple(sentence.text for sentence in plain[:2]),
        to_try=(attempt[0].upper() + attempt[1:],),
        voice=" ".join(sentence.text for sentence in said),
    )
    return _as_json(sections) if form is Form.JSON else _under_headings(sections)


def as_prose(text: str, form: Form) -> str:
    """Returns what a critique of a form says, as the prose that `critiques.read_back` knows; what lacks the form, as
    it is, so that it counts as garbled."""
    try:
        sections = read(form, text)
    except ValueError:
        return text
    if form is Form.PROSE or sections.undivided:
        return text
    attempts = [_LABEL + point[0].lower() + point[1:] for point in sections.to_try]
    return " ".join([sections.overview, *sections.strengths, *attempts, sections.voice])


def _as_json(sections: Sections) -> str:
    fields = {"overview": sections.overview, "strengths": sections.strengths, "to_try": sections.to_try}
    return json.dumps({**fields, "voice": sections.voice}, ensure_ascii=False)


def _under_headings(sections: Sections) -> str:
    lines = [f"Overview: {sections.overview}", "Strengths:", *(f"- {point}" for point in sections.strengths)]
    lines += ["To try:", *(f"- {point}" for point in sections.to_try)]
    return "\n".join([*lines, f"Voice: {sections.voice}"] if sections.voice else lines)
