"""The forms of the mini critiques: what is written in one is read back, in the sections that the service returns."""

from __future__ import annotations

import random

import pytest

from deploy.mini import critiques, forms, lessons
from services.critic import sections
from services.critic.prompts import Form

WRITERS = (None, *critiques.VOICES)


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("voice", WRITERS)
def test_what_is_written_in_a_form_is_read_back(form: Form, voice: str | None) -> None:
    choice = random.Random(0)
    for _ in range(50):
        stated = lessons.random_facts(choice)
        text = forms.compose(stated, choice, voice, frozenset(), form)
        back = critiques.read_back(forms.as_prose(text, form))
        assert not back.garbled
        assert all(sentence.holds(stated) for sentence in back.sentences)
        assert critiques.speaks_in(text, voice or "ansel") == (voice is not None)


@pytest.mark.parametrize("form", [Form.SECTIONS, Form.JSON])
@pytest.mark.parametrize("voice", WRITERS)
def test_the_service_finds_every_section(form: Form, voice: str | None) -> None:
    choice = random.Random(1)
    said = sections.read(form, forms.compose(lessons.random_facts(choice), choice, voice, frozenset(), form))
    assert said.overview
    assert (len(said.strengths), len(said.to_try)) == (2, 1)
    assert bool(said.voice) == (voice is not None)
    if voice is not None:
        assert critiques.speaks_in(said.voice, voice)
        assert not critiques.speaks_in(" ".join([said.overview, *said.strengths, *said.to_try]), voice)


@pytest.mark.parametrize("text", ["{", "It is a photograph.", '{"overview": "Zones."'])
def test_what_lacks_the_form_counts_as_garbled(text: str) -> None:
    assert critiques.read_back(forms.as_prose(text, Form.JSON)).garbled
