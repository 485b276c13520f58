"""An advisor as a folder: who it is, and its reference photographs with what is known of each.

    ansel/
      advisor.yaml     id, name, bio, years, focus_areas, voice, link; all optional
      references/      the photographs; without this folder, those beside advisor.yaml
      metadata.yaml    for each file name: title, year, location, description, significance, tags, best_for

Everything but one photograph is optional. A file name in metadata.yaml can only name a file of the photographs' folder,
and a fault of the folder ends in one sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.core.dimensions import DIMENSIONS
from services.core.errors import ConfigurationError
from services.core.files.yaml_fields import listed, mapping, text, texts, unknown
from services.core.identifiers import ADVISOR_ID, legible
from services.core.images.reading import EXTENSIONS

ADVISOR_KEYS: Final = frozenset({"id", "name", "bio", "years", "focus_areas", "voice", "link"})
METADATA_KEYS: Final = frozenset({"title", "year", "location", "description", "significance", "tags", "best_for"})


@dataclass(frozen=True)
class About:
    """What an advisor says about a photograph; texts are empty where the metadata says nothing."""

    file_name: str
    """Its name without directories."""
    title: str
    """Its title; the file's name without its ending where the metadata has none."""
    year: int | None = None
    """The year it was made, 1800 to 2200."""
    location: str = ""
    """Where it was made."""
    description: str = ""
    """What it shows."""
    significance: str = ""
    """Why it matters."""
    tags: tuple[str, ...] = ()
    """Free keywords, in the metadata's order."""
    best_for: tuple[str, ...] = ()
    """The dimensions it teaches best, by their names in DIMENSIONS, in the metadata's order."""


@dataclass(frozen=True)
class ReferenceFile:
    """A reference photograph as the folder has it."""

    path: Path
    """Where the file is."""
    about: About
    """What the metadata says about it."""


@dataclass(frozen=True)
class AdvisorFolder:
    """An advisor and its photographs, sorted by file name; texts are empty where advisor.yaml says nothing."""

    id: str
    """The identity: [a-z0-9-], 1 to 64 characters."""
    name: str
    """The name a person reads; the id where there is none."""
    bio: str
    """A short biography."""
    years: str
    """The years of life or work, in words."""
    focus_areas: tuple[str, ...]
    """What the advisor is known for, most important first."""
    voice: str
    """How the advisor speaks, in words."""
    link: str
    """A page to read more."""
    photographs: tuple[ReferenceFile, ...]
    """At least one."""
    notices: tuple[str, ...] = ()
    """Sentences about what was ignored: files that are not photographs, metadata of missing files, unknown fields."""


def load_advisor(path: Path, advisor_id: str | None = None) -> AdvisorFolder:
    """Returns the advisor of a folder; `advisor_id` may name it where advisor.yaml does not.

    Raises:
        ConfigurationError: the folder or its photographs are missing, a file is not YAML of the form above, or a
            value is out of range; the sentence names the file and what to write there.
    """
    if not path.is_dir():
        fault = "is a file, not a folder" if path.exists() else "does not exist"
        raise ConfigurationError(
            f"The advisor folder {path} {fault}; give a folder with references/ and, if you like, advisor.yaml in it."
        )
    about_file = path / "advisor.yaml"
    about = mapping(about_file)
    identity = _identity(path, about_file, about, advisor_id)
    folder = path / "references" if (path / "references").is_dir() else path
    notices = unknown("advisor.yaml", about, ADVISOR_KEYS)
    files = _photographs(folder, notices)
    metadata = _metadata(path / "metadata.yaml", {file.name for file in files}, notices)
    return AdvisorFolder(
        id=identity,
        name=text(about_file, about, "name") or identity,
        bio=text(about_file, about, "bio"),
        years=text(about_file, about, "years"),
        focus_areas=texts(about_file, about, "focus_areas"),
        voice=text(about_file, about, "voice"),
        link=text(about_file, about, "link"),
        photographs=tuple(
            ReferenceFile(file, _about(path / "metadata.yaml", file, metadata.get(file.name, {}))) for file in files
        ),
        notices=tuple(notices),
    )


def require_id(advisor_id: str, where: str = "The advisor id") -> str:
    """Returns the id as it is.

    Raises:
        ConfigurationError: it is not 1 to 64 characters of a-z, 0-9 and the hyphen.
    """
    if not ADVISOR_ID.fullmatch(advisor_id):
        raise ConfigurationError(
            f"{where} {advisor_id[:80]!r} does not fit: use 1 to 64 characters of a-z, 0-9 and '-', like 'ansel'."
        )
    return advisor_id


def _identity(path: Path, about_file: Path, about: dict[str, object], asked: str | None) -> str:
    written = text(about_file, about, "id")
    if written:
        require_id(written, f"{about_file}: the id")
    if asked is None:
        return written or require_id(path.resolve().name, "The folder has no advisor.yaml with an id, and its name")
    require_id(asked)
    if written and written != asked:
        raise ConfigurationError(
            f"{about_file} names the advisor '{written}', not '{asked}'; change the id there, or ask for '{written}'."
        )
    return asked


def _photographs(folder: Path, notices: list[str]) -> list[Path]:
    files: list[Path] = []
    try:
        for path in sorted(folder.iterdir(), key=lambda each: each.name):
            like_a_photograph = path.suffix.lower() in EXTENSIONS
            if path.name.startswith(".") or path.name in ("advisor.yaml", "metadata.yaml"):
                continue
            if like_a_photograph:
                fault = _fault_of_photograph(path)
            elif path.is_file():
                fault = "its name does not end like that of a photograph"
            else:
                continue
            if fault:
                notices.append(f"{legible(path.name)} is passed over: {fault}.")
            else:
                files.append(path)
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be read ({error.strerror}); mend its permissions.") from error
    if not files:
        raise ConfigurationError(f"{folder} holds no photograph; put JPEG, PNG, WebP, TIFF, GIF or BMP files into it.")
    return files


def _fault_of_photograph(path: Path) -> str:
    """Returns why a path with a photograph's extension cannot be one; it is not opened, since a pipe would block."""
    if not path.is_file():
        return "it is a folder" if path.is_dir() else "it is no file, or a link that leads to none"
    # Names are printed, stored and served as text.
    return "" if legible(path.name) == path.name else "its name is not plain UTF-8 text, so rename it"


def _metadata(path: Path, file_names: set[str], notices: list[str]) -> dict[str, dict[str, object]]:
    entries: dict[str, dict[str, object]] = {}
    for file_name, entry in mapping(path).items():
        if not isinstance(entry, dict):
            raise ConfigurationError(
                f"{path}: '{file_name}' must be followed by fields ({listed(METADATA_KEYS)}), one a line."
            )
        notices += unknown(f"metadata.yaml, {file_name}", entry, METADATA_KEYS)
        if file_name in file_names:
            entries[file_name] = entry
        else:
            notices.append(f"metadata.yaml describes {file_name!r}, which is not among the photographs.")
    return entries


def _about(where: Path, path: Path, entry: dict[str, object]) -> About:
    year = entry.get("year")
    if year is not None and (isinstance(year, bool) or not isinstance(year, int) or not 1800 <= year <= 2200):
        # Lists are not printed: a small YAML file can hold an endless one.
        written = f"a {type(year).__name__}" if isinstance(year, (dict, list)) else repr(str(year)[:40])
        raise ConfigurationError(
            f"{where}: the year of '{path.name}' is {written}; write a number from 1800 to 2200, or none."
        )
    best_for = tuple(name.lower().replace(" ", "_") for name in texts(where, entry, "best_for"))
    for name in best_for:
        if name not in DIMENSIONS:
            raise ConfigurationError(f"{where}: best_for of '{path.name}' names {name!r}; use {', '.join(DIMENSIONS)}.")
    return About(
        file_name=path.name,
        title=text(where, entry, "title") or path.stem,
        year=year if isinstance(year, int) else None,
        location=text(where, entry, "location"),
        description=text(where, entry, "description"),
        significance=text(where, entry, "significance"),
        tags=texts(where, entry, "tags"),
        best_for=best_for,
    )
