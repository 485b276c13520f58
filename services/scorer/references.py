"""The references of an advisor with their scores, and the release that holds them.

A release has two files an advisor: `<advisor>.profile.json`, the distribution in under 1 KB, and
`<advisor>.references.json`, one line a reference with all that was measured, so that a photograph that is a reference
is never measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from services.core.errors import AdvisorNotFound, ConfigurationError
from services.core.releases import Release
from services.scorer import profile
from services.scorer.calibration import Floats
from services.scorer.dimensions import DIMENSIONS, NAMES
from services.scorer.profile import Profile
from services.scorer.scoring import DimensionScore, Opinion, Scores, evidence


@dataclass(frozen=True)
class Reference:
    """A reference photograph and its scores."""

    id: str
    """The lower-case hex sha256 of the file's bytes."""
    title: str
    file_name: str
    best_for: tuple[str, ...]
    """The dimensions that the advisor's metadata says it teaches best."""
    scores: Scores


class AdvisorReferences:
    """One advisor's references, sorted by id, and their profile."""

    def __init__(self, profile: Profile, references: Sequence[Reference]) -> None:
        self.profile = profile
        self.references = tuple(references)

    @cached_property
    def matrix(self) -> Floats:
        """The scores [N, 8]."""
        return np.array([reference.scores.values for reference in self.references])

    def best(self, dimension: int) -> Reference:
        """Returns the reference that scores highest in a dimension (0-7)."""
        return self.references[int(self.matrix[:, dimension].argmax())]

    @classmethod
    def of(cls, advisor: str, scorer: str, references: Sequence[Reference]) -> AdvisorReferences:
        """Returns the references, sorted, with the profile made of them; there must be at least one."""
        ordered = sorted(references, key=lambda reference: reference.id)
        made = profile.build(
            advisor,
            scorer,
            [reference.id for reference in ordered],
            np.array([reference.scores.values for reference in ordered]),
            [reference.scores.monochrome for reference in ordered],
        )
        return cls(made, ordered)


class Library:
    """All advisors of one release, loaded; it never changes."""

    def __init__(self, release: Release | None, release_id: str, advisors: Mapping[str, AdvisorReferences]) -> None:
        # Held so that the release is not collected while it is served.
        self._release = release
        self.release_id = release_id
        self.advisors = advisors
        self._known = {
            reference.id: reference.scores for advisor in advisors.values() for reference in advisor.references
        }

    def advisor(self, advisor_id: str) -> AdvisorReferences:
        """Returns an advisor's references.

        Raises:
            AdvisorNotFound: the release has no such advisor.
        """
        found = self.advisors.get(advisor_id)
        if found is None:
            known = ", ".join(sorted(self.advisors)[:20]) or "none"
            raise AdvisorNotFound(
                f"There is no advisor {advisor_id[:64]!r} in this release (there are: {known}); "
                "pre-compute it with `mondrian precompute`.",
                metadata={"advisor": advisor_id[:64]},
            )
        return found

    def scores_of(self, photograph_id: str) -> Scores | None:
        """Returns the scores of a photograph that is a reference; None where it is not."""
        return self._known.get(photograph_id)


def profile_file(advisor: str) -> str:
    """Returns the name of the file with an advisor's profile."""
    return f"{advisor}.profile.json"


def references_file(advisor: str) -> str:
    """Returns the name of the file with an advisor's references."""
    return f"{advisor}.references.json"


def load_library(release: Release, scorer: str) -> Library:
    """Returns the advisors of a verified release.

    Raises:
        ConfigurationError: the release was made by another scorer, so its scores do not compare, or it cannot be read.
    """
    if release.manifest.space_id != scorer:
        raise ConfigurationError(
            f"Release {release.id[:12]} was made by scorer {release.manifest.space_id} and this is {scorer}: "
            "their scores do not compare; pre-compute the advisors again."
        )
    advisors = {advisor: load_advisor_references(release, advisor) for advisor in release.manifest.counts}
    return Library(release, release.id, advisors)


def load_advisor_references(release: Release, advisor: str) -> AdvisorReferences:
    """Returns what a verified release says of an advisor.

    Raises:
        ConfigurationError: it has no such advisor, or it cannot be read.
    """
    try:
        made = Profile.from_json(release.file(profile_file(advisor)).read_text(encoding="utf-8"))
        lines = release.file(references_file(advisor)).read_text(encoding="utf-8").splitlines()
        return AdvisorReferences(made, [reference_from_json(line) for line in lines])
    except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
        raise ConfigurationError(
            f"Release {release.id[:12]} cannot be read for {advisor} ({error}); pre-compute the advisor again."
        ) from error


def reference_to_json(reference: Reference) -> str:
    """Returns a reference as one line of text."""
    content = {
        "id": reference.id,
        "title": reference.title,
        "file": reference.file_name,
        "best_for": list(reference.best_for),
        **scores_to_json(reference.scores),
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def reference_from_json(line: str) -> Reference:
    """Returns the reference of a line.

    Raises:
        ValueError, KeyError, TypeError: the line is none.
    """
    content = json.loads(line)
    return Reference(
        content["id"], content["title"], content["file"], tuple(content["best_for"]), scores_from_json(content)
    )


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """Returns scores, confidences and sub-measures as JSON values with five significant digits."""
    return {
        "color": _short(scores.color_weight),
        "border": _short(scores.border),
        "scores": {
            name: [_short(one.score), _short(one.confidence), {key: _short(value) for key, value in one.values.items()}]
            for name, one in zip(NAMES, scores.dimensions, strict=True)
        },
        "second": {
            name: [_short(one.second.z), one.second.source]
            for name, one in zip(NAMES, scores.dimensions, strict=True)
            if one.second is not None
        },
    }


def scores_from_json(content: Mapping[str, Any]) -> Scores:
    """Returns the scores that `scores_to_json` wrote; evidence and advice are said anew from the sub-measures."""
    dimensions = []
    for dimension in DIMENSIONS:
        score, confidence, values = content["scores"][dimension.name]
        if set(values) != set(dimension.units):
            raise ValueError(f"the measures of {dimension.name} are not this scorer's")
        said = content.get("second", {}).get(dimension.name)
        second = Opinion(float(said[0]), str(said[1])) if said else None
        dimensions.append(
            DimensionScore(
                float(score),
                float(confidence),
                evidence(dimension, values, second),
                dimension.advice(values),
                {key: float(value) for key, value in values.items()},
                second,
            )
        )
    return Scores(tuple(dimensions), float(content["color"]), float(content["border"]))


def _short(value: float) -> float:
    return float(f"{value:.5g}")
