"""The health probe against a real server, and against nobody."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.core import probe

SERVICE = "mondrian.embedder.v1.EmbedderService"
_Status = health_pb2.HealthCheckResponse

PATIENT = ("--timeout", "60")


@pytest.fixture
def served() -> Iterator[tuple[str, health.HealthServicer]]:
    """A health server on a free port: its address, and the servicer that says what it answers."""
    servicer = health.HealthServicer()
    with ThreadPoolExecutor(max_workers=2) as pool:
        server = grpc.server(pool)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}", servicer
        server.stop(None).wait()


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address where nobody listens, held so that nobody else takes it meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def test_serving(served: tuple[str, health.HealthServicer], capsys: pytest.CaptureFixture[str]) -> None:
    address, servicer = served
    servicer.set(SERVICE, _Status.SERVING)
    assert probe.main([address, SERVICE, *PATIENT]) == 0
    assert capsys.readouterr().out == f"{SERVICE} at {address} is SERVING.\n"


def test_whole_server(served: tuple[str, health.HealthServicer], capsys: pytest.CaptureFixture[str]) -> None:
    address, _ = served
    assert probe.main([address, *PATIENT]) == 0
    assert capsys.readouterr().out == f"The server at {address} is SERVING.\n"


def test_not_serving(served: tuple[str, health.HealthServicer], capsys: pytest.CaptureFixture[str]) -> None:
    address, servicer = served
    servicer.set(SERVICE, _Status.NOT_SERVING)
    assert probe.main([address, SERVICE, *PATIENT]) == 1
    assert capsys.readouterr().err == f"{SERVICE} at {address} is NOT_SERVING.\n"


def test_unknown_service(served: tuple[str, health.HealthServicer]) -> None:
    address, _ = served
    assert probe.ask(address, SERVICE, timeout_s=60.0) == (1, f"The server at {address} has no service {SERVICE}.")


def test_server_without_health(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(max_workers=1) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        assert probe.main([f"127.0.0.1:{port}", *PATIENT]) == 1
        server.stop(None).wait()
    assert "answered UNIMPLEMENTED" in capsys.readouterr().err


def test_nobody_answers(closed_port: str) -> None:
    verdict = probe.ask(closed_port, timeout_s=0.2)
    assert verdict == (3, f"The server at {closed_port} did not answer within 0.2 s.")


@pytest.mark.parametrize("arguments", [[], ["a:1", "b", "c"], ["a:1", "--timeout", "0"], ["a:1", "--timeout", "soon"]])
def test_arguments_that_do_not_fit(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        probe.main(arguments)
    assert ended.value.code == 2


def test_loads_no_model_library() -> None:
    code = (
        "import sys, services.core.probe; "
        "print([name for name in ('torch', 'numpy', 'PIL', 'transformers', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
