"""`mondrian doctor`: what is missing, and the command that mends it."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from services.cli.checks import Verdict, examine
from services.cli.console import FAILED, out, plain
from services.cli.up import settings_for
from services.cli.wording import counted

MARKS: Final = {Verdict.FINE: ("✓", "green"), Verdict.NOTE: ("!", "yellow"), Verdict.MEND: ("✗", "red")}


def doctor(
    profile: Annotated[
        str | None, typer.Option("--profile", help="mini or full; else MONDRIAN_PROFILE.", metavar="PROFILE")
    ] = None,
) -> None:
    """Look for what is missing or damaged, and say how to mend it.

    Exit code 1 when something needs mending.
    """
    settings = settings_for(profile)
    findings = list(examine(settings))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = MARKS[finding.verdict]
        words = Text(plain(finding.sentence))
        if finding.mend:
            words.append(f"\n→ {plain(finding.mend)}", style="bold")
        table.add_row(Text(mark, style=f"bold {style}"), finding.subject, words)
    console = out()
    console.print(f"Profile {settings.profile}", style="bold")
    console.print(table)
    faults = sum(finding.verdict is Verdict.MEND for finding in findings)
    if faults:
        console.print(f"{counted(faults, 'finding')} to mend.", style="bold red")
        raise typer.Exit(FAILED)
    console.print("Nothing to mend.", style="bold green")
