"""`mondrian up`: the four services as processes of this machine, until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.text import Text

from services.cli.console import INTERRUPTED, listing, out, plain, remark
from services.cli.holdings import STORED, advisors_in, store_of
from services.cli.logs import FileOutput, PrefixedOutput
from services.cli.precompute import precompute_samples
from services.cli.roster import EMBEDDER, SERVICES, Plan, plan_services
from services.cli.samples import is_sample, outdated
from services.cli.supervisor import Supervisor
from services.core.errors import ConfigurationError
from services.core.settings import CommonSettings, Profile


def up(
    profile: Annotated[
        str | None, typer.Option("--profile", help="mini or full; else MONDRIAN_PROFILE, else mini.", metavar="PROFILE")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Write the services' logs to files instead of this terminal.")
    ] = False,
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Let every service take a free port; the table names them.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=1, max=65535, metavar="PORT", help="The gateway's port; else MONDRIAN_GATEWAY_PORT or 50050."
        ),
    ] = None,
) -> None:
    """Start the four services and keep them running until Ctrl-C.

    A service that dies is named and started again. Where nothing has been pre-computed yet, profile mini begins with
    the sample advisors. Exit code 0 after SIGTERM, 130 after Ctrl-C.
    """
    settings = settings_for(profile)
    plans = plan_services(settings, free_ports=free_ports, gateway_port=port)
    prepare(settings)
    number = serve(settings, plans, quiet=quiet, on_ready=lambda supervisor: show_ready(out(), plans, settings))
    if number == signal.SIGINT:
        raise typer.Exit(INTERRUPTED)


def settings_for(profile: str | None) -> CommonSettings:
    """Returns the common settings, with the profile that was asked for.

    Raises:
        ConfigurationError: there is no such profile.
    """
    if profile not in (None, "mini", "full"):
        raise ConfigurationError(f"There is no profile {profile!r}; use mini (small models, embedded) or full.")
    return CommonSettings.load(**({"profile": cast(Profile, profile)} if profile else {}))


def prepare(settings: CommonSettings, advisor: str = "") -> None:
    """Pre-computes the sample advisors where profile mini has nothing to serve, or something that no longer fits.

    So it does where `advisor` is one of them and missing.

    Raises:
        ConfigurationError: that failed.
    """
    empty = not all(store_of(settings, service).current_id() for service in STORED)
    if settings.profile != "mini":
        if empty:
            remark(
                "Nothing has been pre-computed yet, so no advisor can be asked;"
                " use `mondrian precompute --advisor-dir DIR`, also while the services run."
            )
        return
    missing = empty or (is_sample(advisor) and not all(advisor in advisors_in(settings, service) for service in STORED))
    if not missing and not outdated(settings):
        return
    out().print(
        "The sample advisors are not pre-computed yet; this begins with them."
        if missing
        else "The sample advisors were pre-computed by other models or measures; this does it again.",
        style="bold",
        soft_wrap=True,
    )
    code = precompute_samples(settings)
    if code == INTERRUPTED:
        raise typer.Exit(INTERRUPTED)  # told already
    if code:
        raise ConfigurationError("The sample advisors could not be pre-computed; the lines above say why.")


def serve(
    settings: CommonSettings, plans: Sequence[Plan], *, quiet: bool, on_ready: Callable[[Supervisor], None]
) -> int:
    """Runs the services until a signal and returns its number; 0 where the supervisor was stopped without one.

    Raises:
        ConfigurationError: a service cannot start.
    """
    output = log_output(settings, quiet)
    console = out()

    def say(sentence: str) -> None:
        console.print(Text(plain(sentence), style="bold yellow"), soft_wrap=True)

    supervisor = Supervisor(plans, output, say, on_ready=lambda: on_ready(supervisor))
    where = f"; their logs are in {output.folder}" if isinstance(output, FileOutput) else ""
    console.print(f"Starting {len(plans)} services{where}.", style="bold", soft_wrap=True)
    with _signals(supervisor) as received:
        try:
            supervisor.run()
        finally:
            console.print("The services are stopped.", style="bold")
    return received[0] if received else 0


def log_output(settings: CommonSettings, quiet: bool) -> FileOutput | PrefixedOutput:
    """Returns where the services' output goes."""
    if quiet:
        return FileOutput(settings.data_dir / "logs")
    return PrefixedOutput(out(), max(len(service.name) for service in SERVICES))


def show_ready(console: Console, plans: Sequence[Plan], settings: CommonSettings) -> None:
    """Prints where the services are reached, and what to type next: with an advisor that is there."""
    console.print("Serving", style="bold green")
    table = listing("Service", "Address", "Health name")
    for plan in plans:
        table.add_row(Text(plan.service.name, style=plan.service.colour), plan.address, plan.service.health_name)
    console.print(table)
    gateway = plans[0]
    elsewhere = "" if gateway.port == gateway.service.default_port else f" --address {gateway.address}"
    known = advisors_in(settings, EMBEDDER)
    asking = f"analyze PHOTO --advisor {known[0]}{elsewhere}" if known else "precompute --advisor-dir DIR"
    console.print(f"Try: mondrian {asking}", style="bold", soft_wrap=True)


@contextlib.contextmanager
def _signals(supervisor: Supervisor) -> Iterator[list[int]]:
    """Stops the supervisor at the first signal, and at the second without waiting; yields what was received."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received:
            supervisor.hurried.set()
        received.append(number)
        supervisor.stopping.set()

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    # Ignored by whoever started this (nohup), a hangup stays so.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
