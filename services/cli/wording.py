"""Names and numbers as a person reads them, the same on the terminal and in the report."""

from __future__ import annotations

from typing import Final

from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.scorer.v1 import scorer_pb2
from mondrian.types.v1 import types_pb2

from services.core.dimensions import in_words

PART_NAMES: Final[dict[int, str]] = {
    gateway_pb2.PART_REFERENCES: "similar references",
    gateway_pb2.PART_CRITIQUE: "critique",
    gateway_pb2.PART_SCORES: "scores",
}


def counted(count: int, noun: str) -> str:
    """Returns "1 release", "2 releases": a number and what it counts, a noun whose plural ends with s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def part_name(part: gateway_pb2.Part.ValueType) -> str:
    """Returns what a part is called, in lower case."""
    return PART_NAMES.get(part, "a part that this version does not know")


def summary(response: gateway_pb2.AnalyzeResponse) -> str:
    """Returns the summary; empty where it could only repeat the critique that is the whole answer."""
    rest = response.HasField("references") or response.HasField("scores") or response.failures
    return response.summary if rest or not response.HasField("critique") else ""


def dimension_name(dimension: types_pb2.Dimension.ValueType) -> str:
    """Returns what a dimension is called, with a capital first letter."""
    return in_words(dimension).capitalize()


def when_and_where(reference: types_pb2.Reference) -> str:
    """Returns year and place of a reference, as far as they are known."""
    year = str(reference.year) if reference.HasField("year") else ""
    return ", ".join(part for part in (year, reference.location) if part)


def teaches(reference: types_pb2.Reference) -> str:
    """Returns the dimensions that a reference teaches best, in lower case; empty where none are named."""
    return ", ".join(in_words(dimension) for dimension in reference.best_for)


def by_whom(authorship: critic_pb2.Authorship) -> str:
    """Returns who wrote a critique: the model, and the adapter with its revision where one was used."""
    if not authorship.adapter:
        return f"written by {authorship.model}, without an adapter"
    revision = f" ({authorship.adapter_revision})" if authorship.adapter_revision else ""
    return f"written by {authorship.model} with the adapter {authorship.adapter}{revision}"


def critique_sections(critique: critic_pb2.CritiqueResponse) -> list[tuple[str, list[str]]]:
    """Returns what a critique says as headings and their points; the first, without a heading, is the overview.

    A critique that is not divided is its paragraphs, under no heading.
    """
    found = critique.sections
    if found.undivided or not critique.HasField("sections"):
        return [("", [line.strip() for line in critique.text.split("\n") if line.strip()])]
    # A model goes on in lower case behind "To try:".
    points = [[point[:1].upper() + point[1:] for point in points] for points in (found.strengths, found.to_try)]
    listed = ("Strengths", points[0]), ("What to try", points[1])
    whole = ("", found.overview), ("In the advisor’s voice", found.voice)
    paragraphs = [(heading, [line.strip() for line in text.split("\n") if line.strip()]) for heading, text in whole]
    return [section for section in (paragraphs[0], *listed, paragraphs[1]) if section[1]]


def how_written(completion: critic_pb2.Completion) -> str:
    """Returns the token count, the wait for the first token, and whether the text breaks off."""
    words = f"{completion.completion_tokens} tokens, the first after {duration(completion.time_to_first_token_ms)}"
    cut = completion.finish_reason == critic_pb2.FINISH_REASON_LENGTH
    return f"{words}; cut off at its greatest length" if cut else words


def failure_sentence(failure: gateway_pb2.Failure) -> str:
    """Returns which part is missing, and why."""
    reason = failure.status.message.strip() or failure.status.reason or f"status {failure.status.code}"
    name = part_name(failure.part)
    return f"{name.capitalize()}: {reason if reason.endswith('.') else f'{reason}.'}"


def duration(milliseconds: float) -> str:
    """Returns a duration with its unit: whole milliseconds below a second, else seconds with one decimal or two."""
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def signed(points: float) -> str:
    """Returns a difference with its sign; a difference that rounds to nothing has none."""
    return "0.0" if abs(points) < 0.05 else f"{points:+.1f}".replace("-", "−")


def gap(score: scorer_pb2.DimensionScore) -> float:
    """Returns a score minus the references' mean, in points, of both as they are shown: with one decimal."""
    return round(score.score, 1) - round(score.comparison.reference.mean, 1)


def ordinal(number: float) -> str:
    """Returns a percentile as a person says it: 62nd."""
    whole = round(number)
    ending = "th" if whole % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(whole % 10, "th")
    return f"{whole}{ending}"


def timings(response: gateway_pb2.AnalyzeResponse) -> list[str]:
    """Returns how long each part took, in the order of the contract, and the whole."""
    parts = [f"{part_name(timing.part)} {duration(timing.elapsed_ms)}" for timing in response.part_timings]
    return [*parts, f"in all {duration(response.total_ms)}"]


def sources(response: gateway_pb2.AnalyzeResponse) -> list[str]:
    """Returns which encoder, scorer and releases answered; who wrote a critique stands beside it."""
    found: list[str] = []
    if response.HasField("references"):
        found.append(f"encoder {response.references.encoder}, release {response.references.release[:12]}")
    if response.HasField("scores"):
        release = f", release {response.scores.release[:12]}" if response.scores.release else ""
        found.append(f"scorer {response.scores.scorer}{release}")
    return found


def similarity(neighbor: embedder_pb2.Neighbor) -> str:
    """Returns a similarity with two decimals, as the gateway's sentences have it."""
    # Adding zero turns -0.0 into 0.0.
    return f"{round(neighbor.similarity, 2) + 0.0:.2f}".replace("-", "−")


def similarity_percent(neighbor: embedder_pb2.Neighbor) -> float:
    """Returns how full a bar for a similarity is, 0 to 100; negative similarities are empty."""
    return 100.0 * min(1.0, max(0.0, neighbor.similarity))


def weakest_first(scores: scorer_pb2.ScoreResponse) -> list[scorer_pb2.DimensionScore]:
    """Returns the dimensions that need work, the one farthest below the references first."""
    lacking = [score for score in scores.dimensions if score.comparison.needs_work]
    return sorted(lacking, key=lambda score: score.comparison.gap_points)
