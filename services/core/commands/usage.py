"""What a service's command says of its settings: --help lists them, and a misspelt variable is reported."""

from __future__ import annotations

import argparse
import difflib
import os
import textwrap
from collections.abc import Sequence

from services.core.settings import COMMON_PREFIX, CommonSettings, ServiceSettings


def read_arguments(kind: type[CommonSettings], arguments: Sequence[str] | None = None) -> None:
    """Reads a service's command line, whose only option is --help, which lists the settings.

    Raises:
        SystemExit: 0 after the help; 2 after anything else, which must not be ignored in silence.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{kind.service()}",
        usage="%(prog)s [--help]",
        description="Serves until SIGTERM. All that can be said to it stands in environment variables; one that is not "
        f"set falls back to the same name behind {COMMON_PREFIX}, then to the value here.",
        epilog="\n".join(_line(name, kind) for name in _read(kind)),
        formatter_class=_KeepLines,
    )
    parser.parse_args(arguments)


def in_effect(settings: ServiceSettings) -> str:
    """Returns the line of the log that has the settings as JSON: all of them at debug and where the log is JSON, and
    for people those that are not the default; --help names the others.
    """
    whole = settings.log_format == "json" or settings.log_level == "debug"
    found = settings.model_dump_json(exclude=set(settings.unread), exclude_defaults=not whole)
    return f"settings{'' if whole else ' beside the defaults'}: {found}"


def misspelt(kind: type[CommonSettings]) -> list[str]:
    """Returns a sentence for every variable behind the service's own prefix that is none of its settings."""
    prefix = kind.prefix()
    known = [name.upper() for name in (*_read(kind), *kind.read_elsewhere)]
    sentences = []
    for variable in sorted(os.environ):
        name = variable.upper().removeprefix(prefix)
        if name != variable.upper() and name not in known:
            meant = difflib.get_close_matches(name, known, n=1)
            question = f"; is {prefix}{meant[0]} meant?" if meant else "; --help lists them."
            sentences.append(f"{variable} is none of this service's settings{question}")
    return sentences


class _KeepLines(argparse.HelpFormatter):
    """Fills the description, and each line of the settings by itself."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text:
            return super()._fill_text(text, width, indent)
        # The meaning of a setting is indented on all its lines; the line of its name and default is not broken.
        lines = (
            textwrap.wrap(line, width, subsequent_indent="    ") if line.startswith(" ") else [line]
            for line in text.split("\n")
        )
        return "\n".join(part for line in lines for part in line)


def _read(kind: type[CommonSettings]) -> list[str]:
    return [name for name in kind.model_fields if name not in kind.unread]


def _line(name: str, kind: type[CommonSettings]) -> str:
    field = kind.model_fields[name]
    default = "" if field.default in (None, "", frozenset()) else f"={str(field.default).lower()}"
    return f"{kind.prefix()}{name.upper()}{default}\n    {' '.join((field.description or '').split())}"
