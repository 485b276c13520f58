"""What a service's command says of its settings: --help lists them, and a misspelt variable is reported."""

from __future__ import annotations

import argparse
import difflib
import os
import textwrap
from collections.abc import Sequence

from services.core.settings import COMMON_PREFIX, CommonSettings


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
        epilog="\n".join(_line(name, kind) for name in kind.model_fields),
        formatter_class=_KeepLines,
    )
    parser.parse_args(arguments)


def misspelt(kind: type[CommonSettings]) -> list[str]:
    """Returns a sentence for every variable behind the service's own prefix that is none of its settings."""
    prefix = kind.prefix()
    known = [name.upper() for name in (*kind.model_fields, *kind.read_elsewhere)]
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


def _line(name: str, kind: type[CommonSettings]) -> str:
    field = kind.model_fields[name]
    default = "" if field.default in (None, "", frozenset()) else f"={str(field.default).lower()}"
    return f"{kind.prefix()}{name.upper()}{default}\n    {' '.join((field.description or '').split())}"
