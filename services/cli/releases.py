"""`mondrian releases`: what was published, whether it is sound, and the way back."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from services.cli.console import FAILED, complain, listing, out, plain
from services.cli.holdings import STORED, nothing_in, store_of, utc
from services.cli.roster import Service
from services.cli.wording import counted
from services.core.releases import collect as collect_old
from services.core.releases import rollback as roll_back
from services.core.settings import CommonSettings


class Stored(StrEnum):
    """The services that serve releases."""

    EMBEDDER = "embedder"
    SCORER = "scorer"


releases = typer.Typer(help="List, verify and roll back what was pre-computed.", no_args_is_help=True)
ServiceArgument = Annotated[Stored | None, typer.Argument(metavar="SERVICE", help="One service; else both.")]


@releases.command("list")
def list_releases(service: ServiceArgument = None) -> None:
    """List the releases, the newest first."""
    settings = CommonSettings.load()
    table = listing("Service", "Release", "Published (UTC)", "References", "MiB", "", numbers=("MiB",))
    for each in _chosen(service):
        for info in store_of(settings, each).releases():
            counts = ", ".join(f"{advisor} {count}" for advisor, count in sorted(info.counts.items()))
            state = (
                Text("damaged", style="red") if info.damage else Text("current" if info.current else "", style="green")
            )
            table.add_row(each.name, info.id[:12], utc(info.created), counts, f"{info.size_bytes / 2**20:.1f}", state)
    console = out()
    if table.row_count:
        console.print(table)
    else:
        console.print(Text(plain(nothing_in(settings))), soft_wrap=True)


@releases.command()
def verify(
    service: ServiceArgument = None,
    every: Annotated[bool, typer.Option("--all", help="Older releases too, which one might roll back to.")] = False,
) -> None:
    """Compare every byte of the current releases with their manifests."""
    settings = CommonSettings.load()
    sound = True
    for each in _chosen(service):
        store = store_of(settings, each)
        current = store.current_id()
        if current is None:
            complain(f"The {each.name} has no release; begin with `mondrian precompute --samples`.")
            sound = False
            continue
        older = [info.id for info in store.releases() if info.id != current] if every else []
        for release_id in (current, *older):
            problems = store.verify(release_id)
            for problem in problems:
                complain(problem)
            sound = sound and not problems
            if not problems:
                out().print(f"The {each.name}'s release {release_id[:12]} is sound.")
    if not sound:
        raise typer.Exit(FAILED)


@releases.command()
def rollback(
    service: Annotated[Stored, typer.Argument(metavar="SERVICE", help="Whose release.")],
    release: Annotated[
        str | None,
        typer.Argument(metavar="RELEASE", help="The release's id or its beginning; else the last sound one before."),
    ] = None,
) -> None:
    """Serve an older release again.

    Running services take it over by themselves.
    """
    each = _chosen(service)[0]
    store = store_of(CommonSettings.load(), each)
    chosen = roll_back(store, store.find(release) if release else None)
    out().print(f"The {each.name} serves release {chosen.id[:12]} of {utc(chosen.manifest.created)} UTC again.")


@releases.command()
def collect(
    keep: Annotated[
        int, typer.Option("--keep", min=0, metavar="N", help="How many releases stay beside the current one.")
    ],
    service: ServiceArgument = None,
) -> None:
    """Remove old releases; the current one and those in use stay."""
    settings = CommonSettings.load()
    for each in _chosen(service):
        if store_of(settings, each).current_id() is None:
            out().print(f"{each.name}: it has no release.")
            continue
        removed = collect_old(store_of(settings, each), keep)
        out().print(f"{each.name}: {counted(len(removed), 'release')} removed.")


def _chosen(service: Stored | None) -> tuple[Service, ...]:
    return tuple(each for each in STORED if service is None or each.name == service.value)
