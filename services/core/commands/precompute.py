"""What the commands that pre-compute an advisor have in common: their options, how they end, what they leave out.

Nothing heavy is imported here, so that Ctrl-C is answered while a command's libraries are still being loaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.core.commands.ending import exit_code

if TYPE_CHECKING:
    from services.core.advisors import AdvisorFolder

INTERRUPTED: Final = "Interrupted; what was finished is kept, and the same command goes on from there."


@dataclass(frozen=True)
class Skipped:
    """A file that is not among the references."""

    file_name: str
    reason: str
    """IMAGE_... as in the contract, FILE_UNREADABLE, or DUPLICATE."""
    sentence: str
    """Why, for the person who can mend it."""


def remarks(skipped: Sequence[Skipped], left_behind: Sequence[str], changed: str) -> list[str]:
    """Returns a run's remarks for people: which files it skipped, and which advisors it left behind.

    `changed` names what those advisors were pre-computed by, which has changed since: "encoder", "scorer".
    """
    lines = []
    if skipped:
        lines.append("1 file was skipped:" if len(skipped) == 1 else f"{len(skipped)} files were skipped:")
        lines.extend(f"  {one.file_name} ({one.reason}): {one.sentence}" for one in skipped)
    if left_behind:
        lines.append(f"The {changed} has changed: {', '.join(left_behind)} must be pre-computed again to be served.")
    return lines


def load_named(options: argparse.Namespace) -> AdvisorFolder:
    """Returns the advisor that the options of a command name; what its folder holds beside that is said on stderr.

    Raises:
        ConfigurationError: as `load_advisor` does.
    """
    from services.core.advisors import load_advisor

    folder = load_advisor(options.advisor_dir, options.advisor_id)
    for sentence in () if options.brief or options.quiet else folder.notices:
        print(sentence, file=sys.stderr)
    return folder


def run_command(
    module: str,
    description: str,
    body: Callable[[argparse.Namespace], Iterable[str]],
    arguments: Sequence[str] | None = None,
) -> int:
    """Returns the exit code of `python -m module`: 0 done, 2 with one sentence when it cannot be, 130 after Ctrl-C
    or SIGTERM.

    `body` gets the options (`advisor_dir`, `advisor_id`, `data_dir`, `brief`, `quiet`), imports what it needs and
    returns what it did, as sentences to be printed. `arguments` are those of the process where they are None.
    """

    def run() -> int:
        for sentence in body(_parser(module, description).parse_args(arguments)):
            print(sentence)
        return 0

    return exit_code(run, INTERRUPTED)


def _parser(module: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--advisor-dir", type=Path, required=True, help="the folder with references/ in it")
    parser.add_argument("--advisor-id", help="the advisor's id; by default that of advisor.yaml, or the folder's name")
    parser.add_argument("--data-dir", type=Path, help="the folder of the releases (MONDRIAN_DATA_DIR)")
    parser.add_argument("--brief", action="store_true", help="do not name files that are left out: the caller does")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser
