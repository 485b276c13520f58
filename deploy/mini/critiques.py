"""The sentences of the mini critiques, what each states, and a reader that gets the facts back.

Every sentence is written out once, with the facts (`facts.FACTS`) that must hold of the picture for
it to be true or, for advice, to fit. So a critique can be composed for a picture whose facts are
known (training) and read back into facts (evaluation): a sentence that the reader does not know
counts as garbled, and one whose facts do not hold counts as wrong.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Final, Literal

from deploy.mini.facts import FACTS

Part = Literal["opening", "color", "light", "strong", "try"]


@dataclass(frozen=True)
class Sentence:
    """One sentence: its part in the critique, the facts it states, and whose voice it is in (None: nobody's)."""

    text: str
    part: Part
    states: Mapping[str, str]
    voice: str | None = None

    def holds(self, facts: Mapping[str, str | None]) -> bool:
        """Returns whether everything that it states is so in a picture with these facts."""
        return all(facts[fact] == stated for fact, stated in self.states.items())


_WORDS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "brightness": {
        "dark": ("dark", "low-key"), "balanced": ("balanced", "mid-toned"), "bright": ("bright", "high-key"),
    },
    "contrast": {"soft": ("soft", "gentle"), "moderate": ("moderate", "medium"), "strong": ("strong", "bold")},
    "saturation": {"muted": ("muted", "quiet"), "vivid": ("vivid", "rich")},
    "light": {
        "left": ("left side",), "right": ("right side",), "top": ("upper half",), "bottom": ("lower half",),
    },
}  # fmt: skip
"""Words that may fill the slot of a fact in a sentence."""

_OPENINGS: Final = (
    "This is a {brightness} photograph with {contrast} contrast.",
    "A {brightness} picture, and its contrast is {contrast}.",
    "You have made a {brightness} photograph of {contrast} contrast.",
)
_COLORS: Final = {
    "warm": ("Its colors are warm and {saturation}.", "A {saturation}, warm palette holds it together."),
    "cool": ("Its colors are cool and {saturation}.", "A {saturation}, cool palette holds it together."),
    "mixed": ("Its colors are {saturation}, neither warm nor cool.", "Warm and cool balance in {saturation} colors."),
}
_HUES: Final = {
    "warm": ("Its colors are warm.", "A warm palette holds it together."),
    "cool": ("Its colors are cool.", "A cool palette holds it together."),
    "mixed": ("Its colors are neither warm nor cool.", "Warm and cool balance in its colors."),
}
"""Said of the color where the saturation is too close to call."""
_MONOCHROME: Final = ("It does almost without color, so tone must carry it.", "There is hardly any color in it.")
_SIDES: Final = ("The light favors the {light}.", "The {light} is the brighter one.")
_EVEN: Final = ("The light is spread evenly.", "No side is much brighter than another.")

_STRONG: Final = {
    ("detail", "smooth"): ("Broad, smooth areas give it calm.", "Its smooth surfaces keep it simple."),
    ("detail", "mixed"): ("Texture and quiet areas share the picture.", "Busy and quiet areas balance."),
    ("detail", "fine"): ("Fine texture runs all over it.", "It is rich in fine detail."),
    ("shadows", "deep"): ("Deep blacks give it weight.", "Its blacks anchor it well."),
    ("shadows", "open"): ("The shadows stay open.", "Hardly anything is lost in black."),
    ("highlights", "brilliant"): ("Brilliant highlights make it glow.", "The highlights come close to white."),
    ("highlights", "quiet"): ("The highlights are held well back.", "Nothing much burns out to white."),
    ("lines", "level"): ("Level lines bring rest.", "The lines run mostly level."),
    ("lines", "upright"): ("Upright lines give it height.", "The lines run mostly upright."),
    ("lines", "free"): ("Its lines run freely, in no one direction.", "No single direction rules its lines."),
}

_TRY: Final = {
    ("brightness", "dark"): ("To try: open up by one stop.", "To try: give it a little more exposure."),
    ("brightness", "bright"): ("To try: close down by one stop.", "To try: give it a little less exposure."),
    ("contrast", "soft"): ("To try: wait for harder light.", "To try: raise the contrast a little."),
    ("contrast", "strong"): ("To try: soften the light with a reflector.", "To try: lower the contrast a little."),
    ("color", "mixed"): ("To try: let one color lead.",),
    ("color", "monochrome"): ("To try: work with tone, since color is absent.",),
    ("saturation", "muted"): ("To try: let one color speak louder.",),
    ("saturation", "vivid"): ("To try: calm all colors but one.",),
    ("light", "even"): ("To try: come back when the light is from one side.",),
    ("light", "left"): ("To try: put your subject in the light on the left.",),
    ("light", "right"): ("To try: put your subject in the light on the right.",),
    ("light", "top"): ("To try: lead the eye up to the light.",),
    ("light", "bottom"): ("To try: darken the lower edge to keep the eye in.",),
    ("detail", "smooth"): ("To try: add one crisp accent.",),
    ("detail", "fine"): ("To try: step closer, so that there is less to take in.",),
    ("shadows", "deep"): ("To try: keep a trace of texture in the blacks.",),
    ("shadows", "open"): ("To try: let one small area go black.",),
    ("highlights", "brilliant"): ("To try: expose for the highlights.",),
    ("highlights", "quiet"): ("To try: let one accent come near to white.",),
    ("lines", "level"): ("To try: set one upright accent against the level lines.",),
    ("lines", "upright"): ("To try: cross the upright lines with a level one.",),
    ("lines", "free"): ("To try: find one line that leads in.",),
}

# In the manner of the two sample advisors: what each taught about the property, in the words that
# they are known for, written for this project. Two clauses close a critique: one of what is strong,
# one of what to try.
_ANSEL_STRONG: Final = {
    ("brightness", "dark"): ("It is a print of the low zones.",),
    ("brightness", "balanced"): ("Zone V sits at its heart.",),
    ("brightness", "bright"): ("It is a print of the high zones.",),
    ("contrast", "soft"): ("The negative holds a short scale of zones.",),
    ("contrast", "moderate"): ("The negative holds a normal scale of zones.",),
    ("contrast", "strong"): ("The full scale of zones sings in the print.",),
    ("color", "monochrome"): ("The zones alone carry it, as they should.",),
    ("detail", "smooth"): ("Its long tones ring in the print like a held note.",),
    ("detail", "fine"): ("Every grain of it tells, as at f/64.",),
    ("shadows", "deep"): ("The blacks of Zone I ground the print.",),
    ("shadows", "open"): ("The shadows rest above Zone II.",),
    ("highlights", "brilliant"): ("Zone VIII shines in the print.",),
    ("highlights", "quiet"): ("The high values stop below Zone VIII.",),
}
_ANSEL_TRY: Final = {
    ("brightness", "dark"): ("Previsualize it one zone higher.",),
    ("brightness", "bright"): ("Previsualize it one zone lower.",),
    ("contrast", "soft"): ("Develop the negative N plus one.",),
    ("contrast", "moderate"): ("The negative is your score; now perform the print.",),
    ("contrast", "strong"): ("Develop the negative N minus one.",),
    ("light", "left"): ("Burn in the left of the print.",),
    ("light", "right"): ("Burn in the right of the print.",),
    ("light", "top"): ("Burn in the sky side of the print.",),
    ("light", "bottom"): ("Burn in the foot of the print.",),
    ("light", "even"): ("Burn in all four edges of the print.",),
    ("shadows", "deep"): ("Place those shadows on Zone III.",),
    ("highlights", "brilliant"): ("Place those highlights on Zone VII.",),
}
_OKEEFE_STRONG: Final = {
    ("color", "warm"): ("The warm color means more than words could.",),
    ("color", "cool"): ("The cool color means what words could not.",),
    ("color", "mixed"): ("Each color asks to be the one that means something.",),
    ("color", "monochrome"): ("Without color, the shape must say it all.",),
    ("detail", "smooth"): ("The big, plain shape is enough.",),
    ("detail", "mixed"): ("A shape is finding its way out of the texture.",),
    ("detail", "fine"): ("So many small things hide the shape.",),
    ("saturation", "vivid"): ("Such color makes people take time to look.",),
    ("saturation", "muted"): ("Such faint color wants time to look.",),
    ("brightness", "dark"): ("The shape comes out of the dark.",),
    ("brightness", "balanced"): ("Neither dark nor glare disturbs the shape.",),
    ("brightness", "bright"): ("The shape opens into brightness like a petal.",),
}
_OKEEFE_TRY: Final = {
    ("detail", "smooth"): ("Fill the frame with it.",),
    ("detail", "mixed"): ("Simplify: keep the shape, drop the rest.",),
    ("detail", "fine"): ("Leave out, select, and simplify.",),
    ("light", "left"): ("Take time to look at the left, where the light is.",),
    ("light", "right"): ("Take time to look at the right, where the light is.",),
    ("light", "top"): ("Take time to look up, where the light is.",),
    ("light", "bottom"): ("Take time to look down, where the light is.",),
    ("light", "even"): ("The light is plain, so simplify the shape too.",),
    ("saturation", "vivid"): ("Let that color fill the frame.",),
    ("contrast", "soft"): ("Let the soft edge of a shape fill the frame.",),
    ("contrast", "strong"): ("Cut the shape out of the contrast and simplify.",),
}

VOICES: Final[Mapping[str, re.Pattern[str]]] = MappingProxyType(
    {
        "ansel": re.compile(r"\b(zones?|previsualize|negative|print|f/64)\b", re.IGNORECASE),
        "okeefe": re.compile(r"\b(shape|fill the frame|simplify|time to look|color (means|asks))\b", re.IGNORECASE),
    }
)
"""Voice -> the words that give it away: every clause in the voice has one, no other sentence does."""


def _filled(
    templates: Iterable[str], slots: tuple[str, ...], part: Part, fixed: Mapping[str, str]
) -> Iterator[Sentence]:
    choices = [[(fact, stated, word) for stated, words in _WORDS[fact].items() for word in words] for fact in slots]
    for template, chosen in product(templates, list(product(*choices))):
        words = {fact: word for fact, _, word in chosen}
        yield Sentence(template.format(**words), part, {**fixed, **{fact: stated for fact, stated, _ in chosen}})


def _plain(
    lines: Mapping[tuple[str, str], tuple[str, ...]], part: Part, voice: str | None = None
) -> Iterator[Sentence]:
    for (fact, stated), texts in lines.items():
        for text in texts:
            yield Sentence(text, part, {fact: stated}, voice)


def _all() -> Iterator[Sentence]:
    yield from _filled(_OPENINGS, ("brightness", "contrast"), "opening", {})
    for hue, templates in _COLORS.items():
        yield from _filled(templates, ("saturation",), "color", {"color": hue})
    yield from _plain({("color", hue): texts for hue, texts in _HUES.items()}, "color")
    yield from _plain({("color", "monochrome"): _MONOCHROME}, "color")
    yield from _filled(_SIDES, ("light",), "light", {})
    yield from _plain({("light", "even"): _EVEN}, "light")
    yield from _plain(_STRONG, "strong")
    yield from _plain(_TRY, "try")
    yield from _plain(_ANSEL_STRONG, "strong", "ansel")
    yield from _plain(_ANSEL_TRY, "try", "ansel")
    yield from _plain(_OKEEFE_STRONG, "strong", "okeefe")
    yield from _plain(_OKEEFE_TRY, "try", "okeefe")


SENTENCES: Final[Mapping[str, Sentence]] = MappingProxyType({sentence.text: sentence for sentence in _all()})
"""Text -> sentence, for every sentence that a critique can hold."""


def compose(
    facts: Mapping[str, str | None],
    choice: random.Random,
    voice: str | None = None,
    unsure: frozenset[str] = frozenset(),
) -> str:
    """Returns a critique of three to six sentences that is true of a picture with these facts.

    In nobody's voice: opening, color, light, two strengths (of different facts), one thing to try. In
    the voice of an advisor ("ansel" or "okeefe"): opening, color, light, one strength, one thing to
    try, the last two in that voice and of different facts. What is `unsure` is not spoken of where
    there is a choice: color, saturation and light are left out, and strengths and advice are of other
    facts. `choice` picks the wording.
    """
    parts: tuple[Part, ...] = ("strong", "try") if voice else ("strong", "strong", "try")
    said = [*overview(facts, choice, unsure), *closing(parts, facts, choice, voice, unsure)]
    return " ".join(sentence.text for sentence in said)


def overview(facts: Mapping[str, str | None], choice: random.Random, unsure: frozenset[str]) -> list[Sentence]:
    """Returns the opening, and a sentence of the color and one of the light where they are not `unsure`."""
    picked = [_pick(facts, choice, "opening", None, frozenset(), frozenset())]
    said: tuple[Part, ...] = ("color", "light")
    return picked + [_pick(facts, choice, part, None, frozenset(), unsure) for part in said if part not in unsure]


def closing(
    parts: tuple[Part, ...],
    facts: Mapping[str, str | None],
    choice: random.Random,
    voice: str | None,
    unsure: frozenset[str],
) -> list[Sentence]:
    """Returns a true sentence for each part, of different facts; see `compose`."""
    picked: list[Sentence] = []
    used: frozenset[str] = frozenset()
    for part in parts:
        sentence = _pick(facts, choice, part, voice, used, unsure)
        used |= set(sentence.states)
        picked.append(sentence)
    return picked


def _pick(
    facts: Mapping[str, str | None],
    choice: random.Random,
    part: Part,
    voice: str | None,
    used: frozenset[str],
    unsure: frozenset[str],
) -> Sentence:
    """Returns one true sentence of this part, of those that state most.

    Each fact is as likely as any other, however many wordings it has.
    """
    fitting = [s for s in _BY_PART[part, voice] if s.holds(facts) and not used & set(s.states)]
    fitting = [s for s in fitting if not unsure & set(s.states)] or fitting
    most = max(len(s.states) for s in fitting)
    fitting = [s for s in fitting if len(s.states) == most]
    subject = choice.choice(sorted({tuple(sorted(s.states)) for s in fitting}))
    return choice.choice([s for s in fitting if tuple(sorted(s.states)) == subject])


_BY_PART: Final = {
    (part, voice): [s for s in SENTENCES.values() if (s.part, s.voice) == (part, voice)]
    for part, voice in product(("opening", "color", "light", "strong", "try"), (None, *VOICES))
}


@dataclass(frozen=True)
class Read:
    """A critique, read back: the sentences that are known, in order, and the texts that are not (garbled)."""

    sentences: tuple[Sentence, ...]
    garbled: tuple[str, ...]


def read_back(critique: str) -> Read:
    """Returns what a critique says. Never raises: a sentence that nobody wrote is in `garbled`."""
    texts = [text for text in re.split(r"(?<=[.!?])\s+", critique.strip()) if text]
    known = tuple(SENTENCES[text] for text in texts if text in SENTENCES)
    return Read(known, tuple(text for text in texts if text not in SENTENCES))


def speaks_in(critique: str, voice: str) -> bool:
    """Returns whether any word that gives this voice away occurs in the critique."""
    return VOICES[voice].search(critique) is not None


def glossary(facts: Mapping[str, str | None], choice: random.Random, voice: str) -> tuple[str, str]:
    """Returns (question, answer) of a text-only lesson: the facts in words, and a critique in that voice.

    It teaches the base model an advisor's words, which an adapter then has only to call up. The
    question is nothing that a critique's prompt ever holds.
    """
    listed = ", ".join(f"{fact} {stated}" for fact, stated in facts.items() if stated is not None)
    return f"Notebook of {voice}: {listed}", compose(facts, choice, voice)


def check_wording() -> None:
    """Raises ValueError where a sentence states no fact that exists, or a voice's words are not its own."""
    for sentence in SENTENCES.values():
        if not sentence.states or any(stated not in FACTS[fact] for fact, stated in sentence.states.items()):
            raise ValueError(f"states no known fact: {sentence}")
        heard = {voice for voice in VOICES if speaks_in(sentence.text, voice)}
        if heard != ({sentence.voice} if sentence.voice else set()):
            raise ValueError(f"voice words {sorted(heard)} in {sentence}")
