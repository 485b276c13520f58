"""The commands of `mondrian`, put together."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from services.cli.advisors import advisors
from services.cli.analyze import analyze
from services.cli.console import EPILOG, SentenceGroup
from services.cli.demo import demo
from services.cli.doctor import doctor
from services.cli.models import models
from services.cli.precompute import precompute
from services.cli.releases import releases
from services.cli.up import up

app = typer.Typer(
    name="mondrian",
    cls=SentenceGroup,
    help="Tells a photographer how a photograph stands beside a master's work.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    # Boxes would leave the words a third of the line, and show a switch as one that takes a value.
    rich_markup_mode=None,
)
for command in (demo, up, analyze, precompute, advisors, doctor):
    app.command(epilog=EPILOG)(command)
app.add_typer(releases, name="releases")
app.add_typer(models, name="models")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mondrian {importlib.metadata.version('mondrian')}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass
