"""`mondrian precompute`: an advisor's photographs become releases that the embedder and the scorer serve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.text import Text

from services.cli.console import FAILED, INTERRUPTED, MISCONFIGURED, complain, out, plain, remark
from services.cli.holdings import STORED, Holdings, holdings
from services.cli.roster import BACKENDS, Service, endpoint_of, malloc_environment, require_model
from services.cli.samples import remember, sample_folders
from services.core.advisors import load_advisor, require_id
from services.core.commands.output import going_on_unread
from services.core.commands.precompute import Skipped, remarks
from services.core.errors import ConfigurationError
from services.core.settings import CommonSettings


def precompute(
    advisor_dir: Annotated[
        Path | None,
        typer.Option("--advisor-dir", metavar="DIR", help="The folder: references/, and if you like advisor.yaml."),
    ] = None,
    advisor_id: Annotated[
        str | None,
        typer.Option(
            "--advisor-id", metavar="ID", help="The advisor's id; else that of advisor.yaml, or the folder's name."
        ),
    ] = None,
    samples: Annotated[bool, typer.Option("--samples", help="Pre-compute the sample advisors.")] = False,
) -> None:
    """Pre-compute an advisor's reference photographs.

    Photographs that are known already are not computed again; a run that was interrupted goes on where it was, and
    running services take the new release over by themselves.
    """
    if samples == (advisor_dir is not None):
        raise ConfigurationError("Name one folder with --advisor-dir DIR, or say --samples for the sample advisors.")
    if samples and advisor_id is not None:
        raise ConfigurationError("--advisor-id goes with --advisor-dir; the sample advisors have their own ids.")
    settings = CommonSettings.load()
    with going_on_unread():
        if advisor_dir is not None:
            code = precompute_folders(settings, [advisor_dir], advisor_id)
        else:
            code = precompute_samples(settings)
    if code:
        raise typer.Exit(code)


def precompute_samples(settings: CommonSettings) -> int:
    """Pre-computes the sample advisors and returns an exit code as `precompute_folders` does."""
    code = precompute_folders(settings, sample_folders())
    if code == 0:
        remember(settings)
    return code


def precompute_folders(settings: CommonSettings, folders: Sequence[Path], advisor_id: str | None = None) -> int:
    """Runs both services' precompute for each folder and returns an exit code: 0, 1, 2 or 130.

    Raises:
        ConfigurationError: a folder is not an advisor's, or the embedder's model is missing.
    """
    console = out()
    # Both services would find these faults after seconds of loading their models.
    advisors = [load_advisor(folder, advisor_id) for folder in folders]
    for service in BACKENDS:
        if service in STORED:
            require_model(service, settings, endpoint_of(service).model_path)
    worst = 0
    for folder, advisor in zip(folders, advisors, strict=True):
        for sentence in advisor.notices:
            remark(sentence)
        done: list[Service] = []
        for service in STORED:
            subject = (service.name, f"bold {service.colour}")
            what = f": {len(advisor.photographs)} photographs of {plain(advisor.name)}"
            console.print(Text.assemble(subject, what), soft_wrap=True)
            code = run_precompute(settings, service, folder, advisor.id)
            if code == INTERRUPTED:
                return code
            worst = max(worst, MISCONFIGURED if code == MISCONFIGURED else FAILED if code else 0)
            if code:
                # The other store is left alone: of two runs at once, each might get its advisor into one of them only.
                break
            done.append(service)
        held = {service: holdings(settings, service) for service in STORED}
        line = Text(plain(summary(held, advisor.id)), style="bold" if not worst else "bold red")
        console.print(line, soft_wrap=True)
        for sentence in left_out({service: held[service] for service in done}, advisor.id):
            console.print(plain(sentence), markup=False, soft_wrap=True)
    return worst


def run_precompute(settings: CommonSettings, service: Service, folder: Path, advisor_id: str) -> int:
    """Returns the exit code of one service's precompute, whose progress and sentences go straight to the terminal."""
    require_id(advisor_id)
    # The child must not outlive this process, however that ends (a hangup of its terminal included).
    command = [sys.executable, "-m", "services.cli.leash", str(os.getpid()), f"services.{service.name}.precompute"]
    command += ["--advisor-dir", str(folder), "--advisor-id", advisor_id, "--data-dir", str(settings.data_dir)]
    command.append("--brief")
    environment = {
        **os.environ,
        **malloc_environment(),
        "MONDRIAN_PROFILE": settings.profile,
        "MONDRIAN_MODELS_DIR": str(settings.models_dir),
    }
    sys.stdout.flush()
    process: subprocess.Popen[bytes] | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        # Ctrl-C reaches both processes, SIGTERM only the one that it was sent to.
        if process is not None:
            process.send_signal(number)
        raise KeyboardInterrupt

    held = {signal.SIGINT, signal.SIGTERM}
    before = signal.signal(signal.SIGTERM, stop)
    # Blocked until the new process can answer them with a sentence; it unblocks them itself.
    signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        process = subprocess.Popen(command, env=environment)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        return process.wait()
    except KeyboardInterrupt:
        # It says itself what is kept, unless it was done by then.
        if process is None or process.wait() != INTERRUPTED:
            complain("Interrupted; what was finished is kept.")
        return INTERRUPTED
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        signal.signal(signal.SIGTERM, before)


def summary(held: Mapping[Service, Holdings], advisor_id: str) -> str:
    """Returns in a line what each service now has of an advisor."""
    parts = [
        f"{service.name} {has.counts[advisor_id]} references"
        f"{_skipped(len(has.skipped.get(advisor_id, ())))} (release {has.release[:12]})"
        if advisor_id in has.counts
        else f"{service.name} nothing"
        for service, has in held.items()
    ]
    return f"{advisor_id}: {'; '.join(parts)}."


def left_out(held: Mapping[Service, Holdings], advisor_id: str) -> list[str]:
    """Returns which of an advisor's files were skipped and why, in sentences: what the services agree on once."""
    found: dict[Skipped, list[str]] = {}
    for service, has in held.items():
        for entry in has.skipped.get(advisor_id, ()):
            found.setdefault(Skipped(**entry), []).append(service.name)
    told = [
        one if len(names) == len(held) else replace(one, sentence=f"{one.sentence} (by the {names[0]})")
        for one, names in sorted(found.items(), key=lambda item: item[0].file_name)
    ]
    return remarks(told, (), "")


def _skipped(count: int) -> str:
    return f", {count} skipped" if count else ""
