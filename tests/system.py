"""The whole system as processes: the four real services over the embedded models and a sample advisor."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from services.core.settings import MINI_DIR
from tests.processes import ServiceProcess, child_environment, service_process

ADVISOR: Final = "ansel"
START_S: Final = 300.0
"""For a machine of two cores that imports torch three times, with something else to do."""


def precompute(data: Path) -> None:
    """Pre-computes the sample advisor in both services, at once, as the command line does."""
    arguments = [
        "--advisor-dir",
        str(MINI_DIR / "advisors" / ADVISOR),
        "--advisor-id",
        ADVISOR,
        "--data-dir",
        str(data),
    ]
    environment = child_environment({"MONDRIAN_TORCH_THREADS": "1"})
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", f"services.{name}.precompute", *arguments, "--quiet"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("embedder", "scorer")
    }
    for name, process in running.items():
        output, _ = process.communicate(timeout=START_S)
        assert process.returncode == 0, f"{name}: {output}"


@contextlib.contextmanager
def whole_system(folder: Path, environment: Mapping[str, str]) -> Iterator[dict[str, ServiceProcess]]:
    """Yields the four processes by name, SERVING, over data and logs in `folder`; `environment` holds for each."""
    data = folder / "data"
    precompute(data)
    common = {"MONDRIAN_DATA_DIR": str(data), "MONDRIAN_TORCH_THREADS": "1", **environment}
    with contextlib.ExitStack() as stack:
        backends = {
            name: stack.enter_context(service_process(name, folder, common))
            for name in ("embedder", "critic", "scorer")
        }
        addresses = {f"MONDRIAN_GATEWAY_{name.upper()}": backend.address for name, backend in backends.items()}
        gate = {"MONDRIAN_GATEWAY_START_GATE_S": str(START_S)}
        gateway = stack.enter_context(service_process("gateway", folder, {**common, **addresses, **gate}))
        processes = {**backends, "gateway": gateway}
        for process in processes.values():
            process.start()
        for process in processes.values():
            process.wait_serving(START_S)
        yield processes
