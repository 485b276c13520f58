"""The whole system: four processes started as a user starts them, over the embedded models and a sample advisor."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import pytest
import skimage.data
from mondrian.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from mondrian.types.v1 import types_pb2
from PIL import Image

from services.core.channels import channel_options
from services.core.settings import MINI_DIR
from tests.fakes.collector import Collector, collector
from tests.processes import ServiceProcess, child_environment, service_process

ADVISOR: Final = "ansel"
START_S: Final = 300.0
"""For a machine of two cores that imports torch three times, with something else to do."""


@dataclass(frozen=True)
class Running:
    """The four processes by name, a stub of the gateway, a photograph that the project did not draw, and the traces."""

    processes: dict[str, ServiceProcess]
    stub: gateway_pb2_grpc.GatewayServiceStub
    photograph: bytes
    data: Path
    traces: Collector

    def request(self, mode: gateway_pb2.Mode.ValueType, advisor: str = ADVISOR) -> gateway_pb2.AnalyzeRequest:
        """Returns a request for the photograph."""
        return gateway_pb2.AnalyzeRequest(image=types_pb2.Image(content=self.photograph), advisor=advisor, mode=mode)


def photograph() -> bytes:
    """Returns a real photograph as a JPEG: a cup of coffee, 600 x 400."""
    out = io.BytesIO()
    Image.fromarray(skimage.data.coffee()).save(out, "JPEG", quality=92)
    return out.getvalue()


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


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yields the system once all four services are SERVING."""
    folder = tmp_path_factory.mktemp("system")
    data = folder / "data"
    precompute(data)
    with contextlib.ExitStack() as stack:
        traces = stack.enter_context(collector())
        common = {
            "MONDRIAN_DATA_DIR": str(data),
            "MONDRIAN_TORCH_THREADS": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": traces.address,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
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
        channel = stack.enter_context(grpc.insecure_channel(gateway.address, channel_options()))
        yield Running(processes, gateway_pb2_grpc.GatewayServiceStub(channel), photograph(), data, traces)
