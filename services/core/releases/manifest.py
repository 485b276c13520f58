"""The manifest of a release: which files it consists of, and the sha256 of each."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
LOCK = "reader.lock"
FORMAT = 1
# Names that mean the same on every file system and cannot leave the folder.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


def allowed(name: str) -> bool:
    """Returns whether a release may hold a file of this name."""
    return _FILE_NAME.fullmatch(name) is not None and name not in (MANIFEST, LOCK)


@dataclass(frozen=True)
class Manifest:
    """What a release consists of."""

    space_id: str
    """The space (weights, preprocessing, dtype) in which the release was computed."""
    files: Mapping[str, str]
    """The lower-case hex sha256 of every file, by its name."""
    counts: Mapping[str, int]
    """How much of what there is, 0 and more; for example references by advisor."""
    created: str
    """When it was published: ISO 8601, UTC, to the microsecond."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else the publisher recorded; JSON values."""

    def to_bytes(self) -> bytes:
        """Returns the manifest as canonical UTF-8 JSON: the bytes whose sha256 is the release's id."""
        content = {
            "format": FORMAT,
            "space_id": self.space_id,
            "files": dict(self.files),
            "counts": dict(self.counts),
            "created": self.created,
            "extra": dict(self.extra),
        }
        text = json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False)
        return (text + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        """Returns the manifest that `to_bytes` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is not one, or one of a format that this version does not read.
        """
        values = json.loads(content)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError("it has a format that this version does not read")
        files = {str(name): str(digest) for name, digest in dict(values["files"]).items()}
        for name in files:
            if not allowed(name):
                raise ValueError(f"it names a file {name!r}, which no release may hold")
        counts = {str(name): int(count) for name, count in dict(values["counts"]).items()}
        return cls(str(values["space_id"]), files, counts, str(values["created"]), dict(values["extra"]))


def digest_of(path: Path) -> str:
    """Returns the lower-case hex sha256 of a file; OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage_of(path: Path, digest: str) -> str:
    """Returns what is wrong with a file that should have this sha256; empty when nothing is."""
    try:
        if path.is_symlink() or not path.is_file():
            return f"{path.name} is missing"
        return "" if digest_of(path) == digest else f"{path.name} differs from its sha256"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
