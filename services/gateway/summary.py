"""The sentences that a person reads: one group a part, and a summary made of all of them.

Everything said here stands in the answer as a number or a text; nothing is judged anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.scorer.v1 import scorer_pb2
from mondrian.types.v1 import types_pb2

from services.core.dimensions import in_words
from services.gateway.modes import CRITIQUE, READING_ORDER, REFERENCES, SCORES, Part
from services.gateway.sentences import ended, sentences_of, shortened, within

_NAMED_REFERENCES: Final = 3
# Photographs that have nothing in common have cosines of 0 to 0.5, as the encoder goes; below this none is "similar".
_ALIKE: Final = 0.3
_MISSING: Final = {
    REFERENCES: "Similar references are missing",
    SCORES: "The scores are missing",
    CRITIQUE: "The critique is missing",
}


def narrate(response: gateway_pb2.AnalyzeResponse, advisor: str) -> None:
    """Fills `narrations` and `summary` of an answer from its parts and failures; `advisor` is the advisor's name."""
    failures = {failure.part: failure.status for failure in response.failures}
    summary: list[str] = []
    for part in READING_ORDER:
        if part in failures:
            sentences = [missing(part, failures[part])]
            summary.append(sentences[0])
        elif part == REFERENCES and response.HasField("references"):
            sentences = about_references(response.references, advisor)
            summary.append(nearest(response.references, advisor))
        elif part == SCORES and response.HasField("scores"):
            sentences = about_scores(response.scores, advisor)
            summary.append(standing(response.scores, advisor))
        elif part == CRITIQUE and response.HasField("critique"):
            sentences = about_critique(response.critique, advisor)
            # The first sentence of the text, and who wrote it where that is not the advisor's voice.
            summary.extend([shortened(sentences[0]), *_base_model(response.critique.authorship, advisor)])
        else:
            continue
        response.narrations.add(part=part, sentences=sentences)
    response.summary = " ".join(summary)


def about_references(found: embedder_pb2.SearchReferencesResponse, advisor: str) -> list[str]:
    """Returns what the photograph is similar to, and what the nearest reference is known for.

    References are called the advisor's references, never works "by" the advisor: whose they are, their metadata says.
    """
    if not found.neighbors:
        return [f"There is no reference of {advisor} to compare with."]
    named = [_neighbor(neighbor) for neighbor in found.neighbors[:_NAMED_REFERENCES]]
    rest = len(found.neighbors) - len(named)
    if rest:
        named.append(f"{rest} more")
    if found.neighbors[0].similarity < _ALIKE:
        nearest_are = "the nearest is" if len(named) == 1 else "the nearest are"
        sentences = [f"No reference of {advisor} is much like your photograph; {nearest_are} {_listed(named)}."]
    else:
        sentences = [f"Your photograph is similar to {_listed(named)}, from the references of {advisor}."]
    first = found.neighbors[0].reference
    known_for = (first.significance or first.description).strip()
    if known_for:
        when_where = ", ".join(filter(None, [str(first.year) if first.HasField("year") else "", first.location]))
        sentences.append(ended(f"{_title(first.title)}{f' ({when_where})' if when_where else ''}: {known_for}"))
    if first.best_for:
        teaches = _listed([in_words(dimension) for dimension in first.best_for])
        sentences.append(f"Look at {_title(first.title)} to learn about {teaches}.")
    return sentences


def nearest(found: embedder_pb2.SearchReferencesResponse, advisor: str) -> str:
    """Returns which reference the photograph is nearest to, in a sentence."""
    if not found.neighbors:
        return f"There is no reference of {advisor} to compare with."
    first = _neighbor(found.neighbors[0])
    if found.neighbors[0].similarity < _ALIKE:
        return f"No reference of {advisor} is much like your photograph; the nearest is {first}."
    return f"Of the references of {advisor}, your photograph is nearest to {first}."


def about_scores(scores: scorer_pb2.ScoreResponse, advisor: str) -> list[str]:
    """Returns the overall score, each dimension beside the best reference, and what to work on."""
    grade = f", grade {scores.grade}" if scores.grade else ""
    sentences = [f"Overall: {_out_of_ten(scores.overall)}{grade}."]
    compared = _compared(scores)
    for dimension in scores.dimensions:
        sentences.append(_beside_the_best(dimension, compared=dimension in compared))
    for dimension in scores.dimensions:
        if dimension.comparison.needs_work:
            sentences.append(_to_work_on(dimension, advisor))
    if scores.note:
        sentences.append(ended(scores.note))
    return sentences


def standing(scores: scorer_pb2.ScoreResponse, advisor: str) -> str:
    """Returns the overall score, and the strongest and the weakest dimension beside the advisor's, in words."""
    grade = f" ({scores.grade})" if scores.grade else ""
    overall = f"Your photograph scores {_out_of_ten(scores.overall)} overall{grade}"
    if not scores.dimensions:
        return f"{overall}."
    compared = _compared(scores)
    if not compared:
        best = max(scores.dimensions, key=lambda dimension: dimension.score)
        worst = min(scores.dimensions, key=lambda dimension: dimension.score)
        return (
            f"{overall}: {in_words(best.dimension)} is strongest ({_out_of_ten(best.score)}), "
            f"{in_words(worst.dimension)} weakest ({_out_of_ten(worst.score)})."
        )
    best = max(compared, key=_gap)
    # What stands out below is the scorer's to say: a gap in what it is not sure of is no weakness.
    flagged = [dimension for dimension in compared if dimension.comparison.needs_work]
    worst = min(flagged or compared, key=_gap)
    return (
        f"{overall}; beside the references of {advisor}, {in_words(best.dimension)} is strongest "
        f"({_out_of_ten(best.score)}, {_beside_the_mean(best)}) and {in_words(worst.dimension)} weakest "
        f"({_out_of_ten(worst.score)}, {_beside_the_mean(worst)})."
    )


def about_critique(critique: critic_pb2.CritiqueResponse, advisor: str) -> list[str]:
    """Returns the critique's own sentences, then what a reader must know of how they came about."""
    sentences = _critique_sentences(critique) or ["The critic wrote nothing; try again with another instruction."]
    if critique.completion.finish_reason == critic_pb2.FINISH_REASON_LENGTH:
        sentences.append("The critique ends here because it reached the limit of its length; allow more tokens.")
    return sentences + _base_model(critique.authorship, advisor)


def missing(part: Part, status: types_pb2.Status) -> str:
    """Returns which part is missing and why, in a sentence."""
    return ended(f"{_MISSING[part]}: {within(status.message)}" if status.message else _MISSING[part])


def _critique_sentences(critique: critic_pb2.CritiqueResponse) -> list[str]:
    """Returns what a critique says: by section where it is divided, so that headings and JSON are left out."""
    sections = critique.sections
    if sections.undivided or not critique.HasField("sections"):
        return sentences_of(critique.text)
    attempts = [f"To try: {point}" for point in sections.to_try]
    parts = (sections.overview, *sections.strengths, *attempts, sections.voice)
    return [sentence for part in parts for sentence in sentences_of(part)]


def _base_model(authorship: critic_pb2.Authorship, advisor: str) -> list[str]:
    if not authorship.fell_back:
        return []
    why = f": {within(authorship.fallback_reason)}" if authorship.fallback_reason else "."
    return [ended(f"The base model wrote the critique, not the voice of {advisor}{why}")]


def _compared(scores: scorer_pb2.ScoreResponse) -> list[scorer_pb2.DimensionScore]:
    """Returns the dimensions that are compared with the advisor's; colour is not compared with monochrome."""
    return [
        dimension
        for dimension in scores.dimensions
        if dimension.HasField("comparison") and not dimension.comparison.not_comparable
    ]


def _beside_the_best(dimension: scorer_pb2.DimensionScore, *, compared: bool) -> str:
    label = in_words(dimension.dimension).capitalize()
    best = dimension.comparison.reference.best_example
    if not compared or not best.title:
        return f"{label}: {_out_of_ten(dimension.score)}."
    theirs = f"{_out_of_ten(best.score)} ({_title(best.title)})"
    return f"{label}: {_out_of_ten(dimension.score)}. The best reference: {theirs}."


def _to_work_on(dimension: scorer_pb2.DimensionScore, advisor: str) -> str:
    comparison = dimension.comparison
    gap = _beside_the_mean(dimension)
    sentence = f"Work on {in_words(dimension.dimension)}: it is {gap} of the references of {advisor}."
    if dimension.evidence:
        sentence += f" {ended(dimension.evidence[0])}"
    if comparison.advice:
        sentence += f" {ended(comparison.advice)}"
    if comparison.examples:
        shown = [f"{_title(example.title)} ({_out_of_ten(example.score)})" for example in comparison.examples]
        sentence += f" See {_listed(shown)}."
    return sentence


def _neighbor(neighbor: embedder_pb2.Neighbor) -> str:
    # Adding zero turns -0.0 into 0.0.
    similarity = f"{round(neighbor.similarity, 2) + 0.0:.2f}".replace("-", "−")
    return f"{_title(neighbor.reference.title)} ({similarity})"


def _title(title: str) -> str:
    return f"“{title}”"


def _out_of_ten(score: float) -> str:
    """Returns a score with one decimal, as tables show it."""
    return f"{score:.1f}/10"


def _gap(dimension: scorer_pb2.DimensionScore) -> float:
    """Returns a score minus the references' mean, of both as they are shown: with one decimal."""
    return round(dimension.score, 1) - round(dimension.comparison.reference.mean, 1)


def _beside_the_mean(dimension: scorer_pb2.DimensionScore) -> str:
    points = _gap(dimension)
    if abs(points) < 0.05:
        return "level with the mean"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'} the mean"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
