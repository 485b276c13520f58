"""`--report`: the answers as one HTML page that needs nothing but itself, for screen, print and screen reader."""

from __future__ import annotations

import base64
import datetime
import functools
import importlib.metadata
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
from mondrian.gateway.v1 import gateway_pb2
from PIL import Image

from services.cli import wording
from services.cli.calls import Outcome
from services.cli.photographs import UnusablePhotograph, read_photograph
from services.cli.radar import HEIGHT, WIDTH, Radar, radar
from services.core.errors import InvalidImage
from services.core.files.whole_file import write_whole
from services.core.identifiers import legible
from services.core.images.reading import decode

PICTURE_SIDE: Final = 1400
"""The greatest side of a photograph in the page, in pixels."""
PICTURE_QUALITY: Final = 86


@dataclass(frozen=True)
class Chapter:
    """What the page shows of one photograph."""

    name: str
    outcome: Outcome
    picture: str
    """The photograph as a data URI; empty where it cannot be decoded."""
    width: int
    height: int
    radar: Radar | None
    """None where there are no scores."""
    thumbnails: dict[str, str]
    """Data URIs of the references' thumbnails, by reference id."""


def write_report(path: Path, outcomes: Sequence[Outcome], advisor: str, mode: str) -> None:
    """Writes the page to `path`, whole or not at all; into a device or a pipe, as much as it takes.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    page = render([_chapter(outcome) for outcome in outcomes], advisor, mode)
    write_whole(path, page.encode())


def render(chapters: Sequence[Chapter], advisor: str, mode: str) -> str:
    """Returns the page as HTML."""
    return _template().render(
        chapters=chapters,
        advisor=advisor,
        mode=mode,
        made=datetime.datetime.now().astimezone(),
        version=importlib.metadata.version("mondrian"),
        chart_width=WIDTH,
        chart_height=HEIGHT,
    )


def _chapter(outcome: Outcome) -> Chapter:
    picture, width, height = _picture(outcome.path)
    response = outcome.response
    return Chapter(
        name=legible(outcome.path.name),
        outcome=outcome,
        picture=picture,
        width=width,
        height=height,
        radar=radar(response.scores) if response and response.scores.dimensions else None,
        thumbnails=_thumbnails(response) if response else {},
    )


def _picture(path: Path) -> tuple[str, int, int]:
    """Returns a photograph as a data URI with its size in the page; an empty URI where it cannot be shown."""
    try:
        image = decode(read_photograph(path), short_side=PICTURE_SIDE)
    except (InvalidImage, UnusablePhotograph):
        return "", 0, 0
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    clean = Image.new("RGB", image.size)
    clean.paste(image)
    buffer = io.BytesIO()
    clean.save(buffer, "JPEG", quality=PICTURE_QUALITY, optimize=True)
    return _data_uri(buffer.getvalue()), clean.width, clean.height


def _thumbnails(response: gateway_pb2.AnalyzeResponse) -> dict[str, str]:
    return {
        neighbor.reference.id: _data_uri(neighbor.reference.thumbnail_jpeg)
        for neighbor in response.references.neighbors
        if neighbor.reference.thumbnail_jpeg.startswith(b"\xff\xd8")
    }


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


@functools.lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "critique_sections": wording.critique_sections,
        "dimension": wording.dimension_name,
        "duration": wording.duration,
        "failure": wording.failure_sentence,
        "gap": wording.gap,
        "ordinal": wording.ordinal,
        "part": wording.part_name,
        "signed": wording.signed,
        "similarity": wording.similarity,
        "similarity_percent": wording.similarity_percent,
        "sources": wording.sources,
        "summary": wording.summary,
        "teaches": wording.teaches,
        "weakest_first": wording.weakest_first,
        "when_and_where": wording.when_and_where,
        "by_whom": wording.by_whom,
        "how_written": wording.how_written,
    }
    environment.filters.update(filters)
    return environment.get_template("report.html.j2")
