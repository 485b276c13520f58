"""`mondrian advisors`: whom the services know, and how far each is pre-computed."""

from __future__ import annotations

from typing import Annotated

import typer
from mondrian.gateway.v1 import gateway_pb2
from rich.text import Text

from services.cli.client import Address, Gateway
from services.cli.console import FAILED, complain, listing, out, plain
from services.cli.holdings import STORED, Holdings, holdings, nothing_in, utc
from services.cli.settings import ClientSettings
from services.cli.wording import failure_sentence


def advisors(
    local: Annotated[
        bool, typer.Option("--local", help="Read the releases of this machine instead of asking the gateway.")
    ] = False,
    address: Address = None,
) -> None:
    """List the advisors: references, voice and scores of each.

    With --local, the pre-computing of each: references, skipped files, release and time.
    """
    settings = ClientSettings.load()
    if local:
        _show_local(settings, {service.name: holdings(settings, service) for service in STORED})
        return
    with Gateway(address or settings.address, settings) as gateway:
        found, failures = gateway.advisors()
    _show_served(found, {failure.part for failure in failures})
    for failure in failures:
        complain(failure_sentence(failure))
    if failures:
        raise typer.Exit(FAILED)


def _show_served(found: list[gateway_pb2.AdvisorSummary], unasked: set[gateway_pb2.Part.ValueType]) -> None:
    """Prints the advisors; `unasked` are the parts that could not be asked about them."""
    console = out()
    if not found:
        console.print("No advisor is served; pre-compute one with `mondrian precompute --advisor-dir DIR`.")
        return
    table = listing("Id", "Name", "References", "Voice", "Scores", "Known for", numbers=("References",))
    for each in found:
        advisor = each.advisor
        name = f"{advisor.name} ({advisor.years})" if advisor.years else advisor.name
        table.add_row(
            Text(plain(advisor.id), style="bold"),
            Text(plain(name)),
            str(advisor.reference_count),
            _told(gateway_pb2.PART_CRITIQUE in unasked, each.has_adapter, "adapter", "base model"),
            _told(gateway_pb2.PART_SCORES in unasked, each.has_profile, "profile", "none"),
            Text(plain(", ".join(advisor.focus_areas))),
        )
    console.print(table)


def _told(unknown: bool, there: bool, yes: str, no: str) -> Text:
    if unknown:
        return Text("not known", style="dim")
    return Text(yes, style="green") if there else Text(no, style="yellow")


def _show_local(settings: ClientSettings, held: dict[str, Holdings]) -> None:
    console = out()
    names = sorted({advisor for each in held.values() for advisor in each.counts})
    headings = "Advisor", "Service", "References", "Skipped", "Release", "Published (UTC)"
    table = listing(*headings, numbers=("References", "Skipped"))
    for advisor in names:
        for service, each in held.items():
            count = each.counts.get(advisor)
            row = [advisor, service, "none" if count is None else str(count)]
            if count is not None:
                row += [str(len(each.skipped.get(advisor, ()))), each.release[:12], utc(each.created)]
            table.add_row(*(Text(plain(cell)) for cell in row))
    if names:
        console.print(table)
    else:
        console.print(Text(plain(nothing_in(settings))), soft_wrap=True)
    for service, each in held.items():
        for advisor, files in sorted(each.skipped.items()):
            for file in files:
                sentence = f"{advisor}: {file.get('file_name', '')} is not in the {service}: {file.get('sentence', '')}"
                console.print(Text(plain(sentence), style="yellow"), soft_wrap=True)
    faults = [each.damage for each in held.values() if each.damage]
    for fault in faults:
        complain(fault)
    if faults:
        raise typer.Exit(FAILED)
