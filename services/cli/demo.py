"""`mondrian demo`: starts the embedded default, types the four commands that a user would, and stops it again."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.rule import Rule
from rich.text import Text

from services.cli.analyze import require_writable
from services.cli.calls import Mode
from services.cli.console import FAILED, INTERRUPTED, out, plain
from services.cli.photographs import UnusablePhotograph, read_photograph
from services.cli.roster import plan_services
from services.cli.supervisor import Supervisor
from services.cli.up import prepare, serve, settings_for, show_ready
from services.core.advisors import require_id
from services.core.errors import ConfigurationError

SAMPLE_PHOTOGRAPH: Final = "coffee.png"
"""A real photograph that comes with scikit-image (by Rachel Michetti, dedicated to the public domain, CC0)."""


def demo(
    photograph: Annotated[
        Path | None, typer.Argument(metavar="PHOTO", help="A photograph of yours; else one of scikit-image's.")
    ] = None,
    advisor: Annotated[str, typer.Option("--advisor", "-a", metavar="ID", help="ansel or okeefe.")] = "ansel",
    report: Annotated[Path, typer.Option("--report", metavar="FILE", help="Where the report goes.")] = Path(
        "report.html"
    ),
) -> None:
    """Analyse a photograph in all four modes, and write a report.

    Four services are started for it on free ports, and stopped at the end.
    """
    path = photograph or sample_photograph()
    try:
        # Found out now, not after a minute of starting services.
        read_photograph(path)
    except UnusablePhotograph as error:
        raise ConfigurationError(str(error)) from error
    require_id(advisor)
    require_writable(report)
    settings = settings_for("mini")
    plans = plan_services(settings, free_ports=True)
    prepare(settings, advisor)
    codes: list[int] = []

    def begin(supervisor: Supervisor) -> None:
        show_ready(out(), plans, settings)

        def work() -> None:
            try:
                codes.extend(_analyses(path, advisor, report, plans[0].address, supervisor.stopping.is_set))
            finally:
                supervisor.stopping.set()

        threading.Thread(target=work, name="demo").start()

    received = serve(settings, plans, quiet=True, on_ready=begin)
    if received:
        raise typer.Exit(INTERRUPTED)
    if len(codes) != len(Mode) or any(codes):
        raise typer.Exit(FAILED)
    out().print(Text(f"All four modes answered. Open {report} in a browser.", style="bold green"), soft_wrap=True)


def sample_photograph() -> Path:
    """Returns the photograph that the demo takes where none is named.

    Raises:
        ConfigurationError: it is not installed.
    """
    found = importlib.util.find_spec("skimage")
    path = Path(found.origin).parent / "data" / SAMPLE_PHOTOGRAPH if found and found.origin else None
    if path is None or not path.is_file():
        raise ConfigurationError("scikit-image, whose photograph the demo takes, is not installed; name one of yours.")
    return path


def _analyses(path: Path, advisor: str, report: Path, address: str, stopped: Callable[[], bool]) -> list[int]:
    """Returns the exit codes of one `mondrian analyze` a mode; the last one writes the report."""
    console = out()
    codes = []
    for mode in Mode:
        if stopped():
            break
        arguments = ["analyze", str(path), "--advisor", advisor, "--mode", mode.value, "--address", address]
        if mode is Mode.COMBINED:
            arguments += ["--report", str(report)]
        console.print(Rule(style="dim"))
        console.print(Text(plain(f"$ mondrian {' '.join(arguments)}"), style="bold cyan"), soft_wrap=True)
        sys.stdout.flush()
        command = [sys.executable, "-m", "services.cli", *arguments]
        codes.append(subprocess.run(command, env=os.environ, check=False).returncode)
    return codes
