"""How the command line speaks: results on stdout, sentences about them on stderr, one exit code a kind of end."""

from __future__ import annotations

import errno
import os
import sys
import traceback
import unicodedata
from collections.abc import Collection
from typing import Any, Final, NoReturn

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup
from typer.exceptions import TyperException

from services.cli.failures import CommandFailed
from services.core.commands.output import lose
from services.core.errors import ConfigurationError, MondrianError

OK: Final = 0
FAILED: Final = 1
"""Something that was asked for failed: a photograph, a call, a check."""
MISCONFIGURED: Final = 2
"""The command was called wrongly, or a setting, a model or a release is missing."""
INTERRUPTED: Final = 130
EPILOG: Final = (
    "Exit codes: 0 done; 1 something failed, and stderr says what; 2 wrong use or configuration; 130 interrupted."
)
# What a pipe or a file gets, so that tables do not depend on the window of whoever started the command.
PIPE_WIDTH: Final = 110


def out() -> Console:
    """Returns the console of results, on stdout as it is now."""
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def err() -> Console:
    """Returns the console of sentences and progress, on stderr as it is now."""
    return Console(file=sys.stderr, highlight=False, width=None if sys.stderr.isatty() else PIPE_WIDTH)


def listing(*headings: str, numbers: Collection[str] = ()) -> Table:
    """Returns an empty table of columns, those in `numbers` to the right; what is too long is folded, never cut."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    for heading in headings:
        # Half a release id is none.
        table.add_column(
            heading,
            justify="right" if heading in numbers else "left",
            no_wrap=heading in ("Service", "Release"),
            overflow="fold",
        )
    return table


def complain(sentence: str) -> None:
    """Prints a failure as one line on stderr."""
    console = err()
    console.print(f"mondrian: {plain(sentence)}", style="red", markup=False, soft_wrap=True)


def remark(sentence: str) -> None:
    """Prints what a person should know, and need not act on, as one line on stderr."""
    err().print(plain(sentence), style="dim", markup=False, soft_wrap=True)


def plain(text: str) -> str:
    """Returns a text without control characters, which could move the cursor or recolour the terminal."""
    return "".join(
        character for character in text if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf")
    )


class SentenceGroup(TyperGroup):
    """The root of the commands: whatever goes wrong below it becomes one sentence and an exit code."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Returns the context of the words that stand before the command's name."""
        try:
            return super().make_context(*arguments, **options)
        except TyperException as error:
            _wrong_use(error)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that was named."""
        try:
            return super().invoke(ctx)
        except TyperException as error:
            _wrong_use(error)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt as error:
            complain("Interrupted; what was finished is kept.")
            raise typer.Exit(INTERRUPTED) from error
        except ConfigurationError as error:
            complain(str(error))
            raise typer.Exit(MISCONFIGURED) from error
        except (CommandFailed, MondrianError) as error:
            complain(str(error))
            raise typer.Exit(FAILED) from error
        except BrokenPipeError as error:
            # The reader (head, less) has seen enough.
            lose(sys.stdout)
            raise typer.Exit(FAILED) from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                _own_fault(error)
            complain(f"What is to be written finds no place ({error.strerror}); free some space, or write elsewhere.")
            raise typer.Exit(FAILED) from error
        except Exception as error:
            _own_fault(error)


def _own_fault(error: Exception) -> NoReturn:
    """Ends the command: what went wrong was not foreseen."""
    if os.environ.get("MONDRIAN_TRACE"):
        traceback.print_exc()
    complain(
        f"This is a fault of the command line itself ({type(error).__name__}: {error});"
        " run it again with MONDRIAN_TRACE=1 and report what it prints."
    )
    raise typer.Exit(FAILED) from error


def _wrong_use(error: Any) -> NoReturn:
    """Ends the command: with its help where it got no arguments, else with one sentence about what is wrong with
    them."""
    if type(error).__name__ == "NoArgsIsHelpError":
        raise error
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "mondrian"
    fault = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
    complain(f"{fault}; {command} --help tells how it is used.")
    raise typer.Exit(MISCONFIGURED) from error
