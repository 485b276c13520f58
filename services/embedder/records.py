"""What a release says of advisors and photographs, as the catalogue takes and gives it."""

from __future__ import annotations

from dataclasses import dataclass

from services.core.advisors import About
from services.embedder.encoder import Vector


@dataclass(frozen=True)
class AdvisorRecord:
    """An advisor of a release; the fields are those of the contract's Advisor."""

    id: str
    name: str
    bio: str = ""
    years: str = ""
    focus_areas: tuple[str, ...] = ()
    voice: str = ""
    link: str = ""
    reference_count: int = 0


@dataclass(frozen=True)
class Entry:
    """A photograph among an advisor's references."""

    id: str
    """The photograph's."""
    about: About
    """What the advisor says about it."""


@dataclass(frozen=True)
class Photograph:
    """What follows from a photograph's bytes."""

    id: str
    """The lower-case hex sha256 of the bytes."""
    width: int
    """Of the upright photograph, in pixels."""
    height: int
    """Of the upright photograph, in pixels."""
    embedding: Vector
    """Of unit length."""
    thumbnail: bytes
    """A JPEG, long side at most 256 pixels."""


@dataclass(frozen=True)
class ReferenceRecord:
    """An entry and its place."""

    advisor: str
    label: int
    """The place among the advisor's references in the order of their ids, 0 and more; the index's label."""
    entry: Entry
    width: int
    height: int
