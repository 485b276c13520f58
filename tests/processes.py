"""Services as processes of their own, for what only a process can show: kill -9, SIGTERM, a load on real cores."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.cli.roster import MALLOC, SERVICES
from services.core.rpc.channels import channel_options

ROOT: Final = Path(__file__).resolve().parents[1]
HEALTH_NAMES: Final = {service.name: service.health_name for service in SERVICES}


_numbers = itertools.count(101 * os.getpid())


def free_port() -> int:
    """Returns a port of loopback on which nobody listens.

    It lies below those that the system gives to whoever asks for any, and tests that run in processes beside this one
    begin to look elsewhere: until the caller listens, nobody else comes to.
    """
    while True:
        port = 16_384 + next(_numbers) % 16_384
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a process of the project: none of the developer's own settings, and `extra`."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MONDRIAN_", "OTEL_"))}
    path = os.pathsep.join((str(ROOT), str(ROOT / "protos")))
    return {**own, **MALLOC, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **extra}


class ServiceProcess:
    """One service as a process; a context manager that leaves nothing behind."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], port: int, log: Path) -> None:
        self.name = name
        self.port = port
        self.log = log
        self._command = [sys.executable, "-m", *command]
        self._environment = child_environment(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it listens, host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Starts the process; its output is added to `log`."""
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )
        return self

    def wait_serving(self, seconds: float) -> Self:
        """Waits until the service is SERVING.

        Raises:
            AssertionError: the process ended, or `seconds` passed; with the end of its log.
        """
        give_up = time.monotonic() + seconds
        health = health_pb2.HealthCheckRequest(service=HEALTH_NAMES[self.name])
        with grpc.insecure_channel(self.address, options=channel_options()) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while (left := give_up - time.monotonic()) > 0:
                assert self._process is not None
                assert self._process.poll() is None, f"{self.name} ended:\n{self.tail()}"
                try:
                    # The first to answer says NOT_SERVING; the watch goes on until that changes.
                    for answer in stub.Watch(health, timeout=min(left, 5.0), wait_for_ready=True):
                        if answer.status == health_pb2.HealthCheckResponse.SERVING:
                            return self
                except grpc.RpcError:
                    continue
        raise AssertionError(f"{self.name} was not serving after {seconds:g} s:\n{self.tail()}")

    def kill(self) -> None:
        """Ends the process at once, as kill -9 does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self, seconds: float) -> int:
        """Sends SIGTERM and returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def wait(self, seconds: float) -> int:
        """Waits until the process has ended by itself and returns the exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    def tail(self, lines: int = 30) -> str:
        """Returns the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def resident_bytes(self) -> int:
        """Returns the memory that the process holds (Linux)."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Returns the CPU time that the process has used, all threads together (Linux)."""
        # Fields 14 and 15 of stat, counted behind the command's name, which may hold spaces itself.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.alive:
            self.kill()


def fake_process(kind: str, folder: Path, delay_ms: float = 0.0) -> ServiceProcess:
    """Returns a fake service (tests.fakes), not yet started, that takes `delay_ms` for an answer."""
    port = free_port()
    command = ["tests.fakes", kind, "--port", str(port), "--delay-ms", str(delay_ms)]
    return ServiceProcess(kind, command, {}, port, folder / f"{kind}.log")


def service_process(name: str, folder: Path, environment: Mapping[str, str]) -> ServiceProcess:
    """Returns a real service, not yet started, on a free port."""
    port = free_port()
    own = {f"MONDRIAN_{name.upper()}_PORT": str(port), **environment}
    return ServiceProcess(name, [f"services.{name}"], own, port, folder / f"{name}.log")
