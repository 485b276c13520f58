"""Photographs named on the command line, checked as far as possible before anything is sent."""

from __future__ import annotations

import os
from pathlib import Path

from services.cli.failures import CommandFailed
from services.core.identifiers import legible
from services.core.images.faults import ACCEPTED
from services.core.images.reading import DEFAULT_LIMITS


class UnusablePhotograph(CommandFailed):
    """A file that is not sent; the message is one sentence with what to do.

    `reason` is what a service would have called it; empty where it would never have seen the file.
    """

    def __init__(self, sentence: str, reason: str = "") -> None:
        super().__init__(sentence)
        self.reason = reason


def shown(path: Path) -> str:
    """Returns a path as it is shown on a terminal, on a page or in JSON: what is not one line of text is escaped."""
    return legible(str(path))


def check_photograph(path: Path) -> None:
    """Looks at a file without reading it.

    Raises:
        UnusablePhotograph: there is no such file, it is a folder, empty, or too large for a message.
    """
    name = shown(path)
    try:
        if path.is_dir():
            raise UnusablePhotograph(f"{name} is a folder; name the photographs in it, like {name}/*.jpg.")
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnusablePhotograph(f"{name} does not exist; check the name.") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if size > DEFAULT_LIMITS.max_bytes:
        raise UnusablePhotograph(
            f"{name} has {size / 2**20:,.1f} MiB, more than the {DEFAULT_LIMITS.max_bytes / 2**20:,.0f} MiB that a"
            " message carries; save it as a JPEG of quality 90, or at fewer pixels, and try again.",
            "IMAGE_TOO_LARGE",
        )
    if size == 0 and path.is_file():
        raise UnusablePhotograph(f"{name} is empty (0 bytes); name {ACCEPTED}.", "IMAGE_EMPTY")


def read_photograph(path: Path) -> bytes:
    """Returns the bytes of a file, 1 byte to 15 MiB. Whether they are a photograph, the services judge.

    Raises:
        UnusablePhotograph: as `check_photograph`, or the file cannot be read.
    """
    check_photograph(path)
    try:
        # A device or a pipe has no size; it is read up to the limit and no further.
        with open(path, "rb", opener=_open) as file:
            content = file.read(DEFAULT_LIMITS.max_bytes + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not 0 < len(content) <= DEFAULT_LIMITS.max_bytes:
        too_large = "holds more than a message carries", "IMAGE_TOO_LARGE"
        fault, reason = too_large if content else ("is empty (0 bytes)", "IMAGE_EMPTY")
        raise UnusablePhotograph(f"{shown(path)} {fault}; name {ACCEPTED}.", reason)
    return content


def _open(path: str, flags: int) -> int:
    """Opens a file without blocking: a pipe that has no writer reads as an empty file."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


def _unreadable(path: Path, error: OSError) -> UnusablePhotograph:
    return UnusablePhotograph(f"{shown(path)} cannot be read ({error.strerror}); check its name and permissions.")
