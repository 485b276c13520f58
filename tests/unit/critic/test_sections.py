"""Sections: read from what models write, never guessed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.critic import prompts
from services.critic.grounding import invented_titles
from services.critic.prompts import Form
from services.critic.sections import Sections, read
from services.critic.structured import SHORTEST

WHOLE = Sections("A lake.", ("Calm light.", "A level line."), ("Come closer.", "Wait."), "Zone V sits at its heart.")
WRITTEN = {
    "plain": """Overview: A lake.
Strengths:
- Calm light.
- A level line.
To try:
- Come closer.
- Wait.
Voice: Zone V sits at its heart.""",
    "markdown": """## Overview
A lake.

**Strengths**
* Calm light.
* A level
  line.

**What to try:**
1. Come closer.
2. Wait.

### In my own voice
Zone V sits at its heart.
""",
    "other marks": """__OVERVIEW__: A lake.
*Strengths:*
• Calm light.
• A level line.
# To try
1) Come closer.
2) Wait.
**Voice:** Zone V sits at its heart.""",
    "numbers": """1. Overview: A lake.
2. **Strengths**
- Calm light.
- A level line.

**3. To try:**
1. Come closer.
2. Wait.

### 4) Voice
Zone V sits at its heart.""",
    "another order": """A lake.
Voice: Zone V sits at its heart.
To try:
- Come closer.
Strengths:
- Calm light.
- A level line.
To try:
- Wait.""",
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN.keys())
def test_headings_divide_a_critique(text: str) -> None:
    assert read(Form.PROSE, text) == WHOLE


def test_a_heading_within_a_line_begins_a_sentence() -> None:
    assert read(Form.PROSE, "Deep blacks give it weight. To try: open up by one stop.") == Sections(
        "Deep blacks give it weight.", to_try=("open up by one stop.",)
    )


@pytest.mark.parametrize(
    "text",
    ["", " A lake, and its calm.\n", "Strengths abound, and a voice\nVoices: none.", "I like to try: often."],
)
def test_without_a_heading_all_of_it_is_overview(text: str) -> None:
    assert read(Form.PROSE, text) == Sections(overview=text, undivided=True)


@given(
    st.text() | st.lists(st.sampled_from([*" \n.:-*#", "Overview", "To try:", "voice", "Strengths:", "z"])).map("".join)
)
def test_any_text_is_read_and_no_word_of_it_is_lost(text: str) -> None:
    found = read(Form.PROSE, text)
    if found.undivided:
        assert found.overview == text
    assert found.words.count("z") == text.count("z")
    assert all(point == " ".join(point.split()) != "" for point in (*found.strengths, *found.to_try))


def test_json_is_read_as_it_stands() -> None:
    assert read(Form.JSON, SHORTEST) == Sections()
    fields = {"overview": "To try: a lake.", "strengths": ["Calm.", " "], "to_try": ["Wait."], "voice": ""}
    text = json.dumps(fields)
    assert read(Form.JSON, text) == Sections("To try: a lake.", ("Calm.",), ("Wait.",))
    # The marks around its strings are not those around a title.
    assert invented_titles(text, ())
    assert not invented_titles(read(Form.JSON, text).words, ())


def test_the_prompt_asks_for_the_headings_that_are_read() -> None:
    asked = read(Form.PROSE, prompts.REQUESTS[Form.SECTIONS])
    assert not asked.undivided
    assert all((asked.overview, asked.strengths, asked.to_try, asked.voice))
    for field in json.loads(SHORTEST):
        assert f"{field}, " in prompts.REQUESTS[Form.JSON]


@pytest.mark.parametrize("form", Form)
def test_a_form_is_asked_for_behind_the_clients_words(form: Form) -> None:
    words = prompts.user_text("Go on.", "- a fact", form)
    assert words.startswith(prompts.user_text("Go on.", "- a fact"))
    assert words.endswith(prompts.REQUESTS[form])
    assert prompts.prompt_text("Go on.", image_tokens=1, context="- a fact", form=form).count(words) == 1
