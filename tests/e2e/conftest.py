"""The whole system: four processes started as a user starts them, over the embedded models and a sample advisor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import skimage.data
from mondrian.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.rpc.channels import channel_options
from tests.fakes.collector import Collector, collector
from tests.pictures import encoded
from tests.processes import ServiceProcess
from tests.system import ADVISOR, whole_system


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
    return encoded(skimage.data.coffee(), "JPEG", quality=92)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yields the system once all four services are SERVING."""
    folder = tmp_path_factory.mktemp("system")
    with collector() as traces:
        exported = {"OTEL_EXPORTER_OTLP_ENDPOINT": traces.address, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with (
            whole_system(folder, exported) as processes,
            grpc.insecure_channel(processes["gateway"].address, channel_options()) as channel,
        ):
            stub = gateway_pb2_grpc.GatewayServiceStub(channel)
            yield Running(processes, stub, photograph(), folder / "data", traces)
