"""What `mondrian doctor` looks at. A check never raises: whatever it finds becomes a finding with its mend."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from services.cli.holdings import STORED, holdings, utc
from services.cli.models import existing, fault_of, required_of, size_of
from services.cli.roster import BACKENDS, CRITIC, SERVICES, Service, endpoint_of, model_folder
from services.cli.samples import is_sample
from services.cli.wording import counted
from services.core import probe
from services.core.identifiers import legible
from services.core.models.devices import cpu_has_bfloat16
from services.core.settings import MINI_DIR, CommonSettings, available_cpus, reachable

LOCK: Final = MINI_DIR.parent / "constraints.txt"
OLDEST_PYTHON, PYTHON_TOO_NEW = (3, 11), (3, 13)
# What the four services and the command line import, by the name of the distribution that brings it.
NEEDED: Final = {
    "grpcio": "grpc",
    "pillow": "PIL",
    "numpy": "numpy",
    "torch": "torch",
    "torchvision": "torchvision",
    "open_clip_torch": "open_clip",
    "hnswlib": "hnswlib",
    "transformers": "transformers",
    "peft": "peft",
    "safetensors": "safetensors",
}
# They install the others and are not served with.
INSTALLERS: Final = frozenset({"pip", "setuptools", "wheel"})
NEEDED_DISK_GB: Final = {"mini": 1.0, "full": 15.0}
NEEDED_MEMORY_GB: Final = {"mini": 4.0, "full": 16.0}
PROBE_TIMEOUT_S: Final = 1.0


class Verdict(Enum):
    """How a check ended."""

    FINE = "fine"
    NOTE = "note"
    """Works, and could be better."""
    MEND = "mend"
    """Does not work until it is mended."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    subject: str
    verdict: Verdict
    sentence: str
    mend: str = ""
    """The command or the step that mends it; empty where there is nothing to mend."""


def examine(settings: CommonSettings) -> Iterator[Finding]:
    """Yields every finding, in the order in which faults build upon one another."""
    yield python_version(sys.version_info[:2])
    yield from packages(LOCK)
    yield accelerator()
    yield from resources(settings)
    for service in BACKENDS:
        yield from model(service, settings)
    yield from releases(settings)
    for service in SERVICES:
        yield port(service)


def python_version(version: tuple[int, int]) -> Finding:
    """Returns whether this Python runs the services."""
    found = f"Python {version[0]}.{version[1]} in {sys.prefix}."
    if OLDEST_PYTHON <= version < PYTHON_TOO_NEW:
        return Finding("Python", Verdict.FINE, found)
    return Finding("Python", Verdict.MEND, found, "install Python 3.11 or 3.12, then: make install PYTHON=python3.11")


def packages(lock: Path) -> Iterator[Finding]:
    """Yields which libraries are missing, and which differ from the lock."""
    missing = [name for name, module in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        yield Finding("Libraries", Verdict.MEND, f"Missing: {', '.join(missing)}.", "make install")
    if not lock.is_file():
        yield Finding("Libraries", Verdict.NOTE, f"There is no lock at {lock} to compare with.")
        return
    differing = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        if pinned := re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line):
            installed = _installed(pinned[1])
            if installed and installed != pinned[2].split("+")[0] and pinned[1] not in INSTALLERS:
                differing.append(f"{pinned[1]} {installed} instead of {pinned[2]}")
    if differing:
        shown = ", ".join(differing[:5]) + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
        yield Finding("Libraries", Verdict.NOTE, f"Not the tested versions: {shown}.", "make install")
    elif not missing:
        yield Finding("Libraries", Verdict.FINE, "All there, in the tested versions.")


def accelerator() -> Finding:
    """Returns what the models compute on, without importing a model library."""
    gpus = _gpus()
    if gpus:
        if "+cpu" in _local_version("torch"):
            mend = "install a CUDA build of torch, then: make install"
            return Finding("Device", Verdict.NOTE, f"{gpus[0]}, but torch is a CPU build.", mend)
        return Finding("Device", Verdict.FINE, f"{counted(len(gpus), 'GPU')}: {gpus[0]}.")
    arithmetic = "bfloat16" if cpu_has_bfloat16() else "float32, for it does not multiply bfloat16 itself"
    return Finding("Device", Verdict.FINE, f"CPU, {counted(available_cpus(), 'core')}, computing in {arithmetic}.")


def resources(settings: CommonSettings) -> Iterator[Finding]:
    """Yields whether disk and memory suffice for the profile."""
    folder = existing(settings.data_dir)
    free = shutil.disk_usage(folder).free / 1e9
    found = f"{free:.1f} GB free at {folder}."
    if free >= NEEDED_DISK_GB[settings.profile]:
        yield Finding("Disk", Verdict.FINE, found)
    else:
        mend = f"free {NEEDED_DISK_GB[settings.profile]:g} GB, or set MONDRIAN_DATA_DIR to another disk"
        yield Finding("Disk", Verdict.MEND, found, mend)
    if not os.access(folder, os.W_OK):
        yield Finding(
            "Disk", Verdict.MEND, f"{folder} cannot be written to.", "set MONDRIAN_DATA_DIR to another folder"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    needed = NEEDED_MEMORY_GB[settings.profile]
    enough = memory >= needed
    sentence = f"{memory:.0f} GB." if enough else f"{memory:.0f} GB; profile {settings.profile} wants {needed:g} GB."
    yield Finding("Memory", Verdict.FINE if enough else Verdict.NOTE, sentence)


def model(service: Service, settings: CommonSettings) -> Iterator[Finding]:
    """Yields whether a service's weights are there."""
    endpoint = endpoint_of(service)
    chosen = endpoint.model_path
    folder = model_folder(service, settings, chosen)
    if folder is None:
        return
    subject = f"Model of the {service.name}"
    fault = fault_of(folder, required_of(service) if settings.profile == "full" and chosen is None else ())
    if not fault:
        yield Finding(subject, Verdict.FINE, f"{folder}, {size_of(folder)}.")
    elif chosen is not None:
        yield Finding(subject, Verdict.MEND, f"{folder}: {fault}.", f"mend {service.prefix}MODEL_PATH")
    else:
        mend = "mondrian models pull" if settings.profile == "full" else "git checkout -- deploy/mini, or: make mini"
        yield Finding(subject, Verdict.MEND, f"{folder}: {fault}.", mend)
    if service is CRITIC:
        beside = (MINI_DIR if settings.profile == "mini" else settings.models_dir) / "adapters"
        adapters = endpoint.adapters_dir or beside
        names = sorted(legible(path.parent.name) for path in adapters.glob("*/adapter_config.json"))
        sentence = f"{', '.join(names)}, in {adapters}." if names else f"None in {adapters}; the base model answers."
        yield Finding("Adapters", Verdict.FINE if names else Verdict.NOTE, sentence)


def releases(settings: CommonSettings) -> Iterator[Finding]:
    """Yields whether what was pre-computed is there, sound, and the same for both services."""
    begin = (
        "mondrian precompute --samples"
        if settings.profile == "mini"
        else "mondrian precompute --advisor-dir DIR --advisor-id ID"
    )
    known: dict[str, set[str]] = {}
    for service in STORED:
        subject = f"Release of the {service.name}"
        held = holdings(settings, service)
        if held.damage:
            mend = f"{begin}, which keeps what is intact, or: mondrian releases rollback {service.name}"
            yield Finding(subject, Verdict.MEND, held.damage, mend)
        elif not held.release:
            # Said in full: what is called from another folder looks there.
            folder = (settings.data_dir / service.name).absolute()
            yield Finding(subject, Verdict.MEND, f"Nothing pre-computed in {folder}.", begin)
        else:
            known[service.name] = set(held.counts)
            counts = ", ".join(f"{advisor} {count}" for advisor, count in sorted(held.counts.items()))
            yield Finding(subject, Verdict.FINE, f"{held.release[:12]} of {utc(held.created)} UTC, sound: {counts}.")
        for advisor, files in sorted(held.skipped.items()):
            if files:
                names = ", ".join(str(file.get("file_name")) for file in files[:3])
                sentence = f"{counted(len(files), 'file')} of {advisor} skipped: {names}."
                yield Finding(subject, Verdict.NOTE, sentence, "mondrian advisors --local says why")
    if len(known) == len(STORED):
        uneven = set.symmetric_difference(*known.values())
        if uneven:
            sentence = f"Only one of the services knows {', '.join(sorted(uneven))}."
            each = "mondrian precompute --advisor-dir DIR, for these advisors"
            mend = "mondrian precompute --samples" if all(map(is_sample, uneven)) else each
            yield Finding("Releases", Verdict.MEND, sentence, mend)


def port(service: Service) -> Finding:
    """Returns whether a service answers at its port, and if not, whether it could."""
    endpoint = endpoint_of(service)
    number = service.default_port if endpoint.port is None else endpoint.port
    subject = f"Port of the {service.name}"
    if number == 0:
        return Finding(subject, Verdict.FINE, "A free one is taken at each start.")
    address = f"{reachable(endpoint.host)}:{number}"
    if not _in_use(address):
        return Finding(subject, Verdict.FINE, f"{address} is free; nothing serves there now.")
    if endpoint.tls_certificate is None:
        asked = address
    elif endpoint.health_port:
        asked = f"{reachable(endpoint.host)}:{endpoint.health_port}"
    else:
        sentence = f"{address} is in use, by TLS, so that its health cannot be asked here."
        return Finding(subject, Verdict.NOTE, sentence, f"set {service.prefix}HEALTH_PORT to a free port")
    verdict = probe.ask(asked, service.health_name, timeout_s=PROBE_TIMEOUT_S)
    if verdict.exit_code == 0:
        return Finding(subject, Verdict.FINE, f"{address} serves.")
    mend = f"stop what has the port, or set {service.prefix}PORT to another"
    return Finding(subject, Verdict.MEND, f"{address} is in use. {verdict.sentence}", mend)


def _in_use(address: str) -> bool:
    host, _, number = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(PROBE_TIMEOUT_S)
        return connection.connect_ex((host.strip("[]"), int(number))) == 0


def _gpus() -> list[str]:
    """Returns the names of the GPUs that the driver shows; empty where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.split(" (UUID")[0] for line in listed.splitlines() if line.startswith("GPU ")]


def _local_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _installed(name: str) -> str:
    """Returns a distribution's version without the local part (2.6.0+cpu is 2.6.0); empty where it is missing."""
    return _local_version(name).split("+")[0]
