"""A real server in this process: health, start, drain, TLS, settings."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc

from services.core import errors
from services.core.rpc.server import LIVENESS, RunningServer, main, running, serve
from services.core.settings import ServiceSettings
from tests.fakes.toy import NAME, Toy
from tests.processes import free_port

_Status = health_pb2.HealthCheckResponse


async def health_of(channel: grpc.aio.Channel, name: str) -> int:
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
    return int(reply.status)


async def test_health_reflection_and_liveness_are_served(toy: Toy, channel: grpc.aio.Channel) -> None:
    serving = health_pb2.HealthCheckResponse.SERVING
    assert await health_of(channel, NAME) == serving
    assert await health_of(channel, "") == serving
    assert await health_of(channel, LIVENESS) == serving
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    names: set[str] = set()
    async for reply in stub.ServerReflectionInfo(iter([request])):
        names |= {service.name for service in reply.list_services_response.service}
    assert NAME in names


async def test_a_dead_component_is_not_serving_and_not_alive_until_it_lives_again(
    toy: Toy, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mondrian.server")
    stub = health_pb2_grpc.HealthStub(channel)
    for alive, status in ((False, _Status.NOT_SERVING), (True, _Status.SERVING)):
        toy.alive = alive
        async for reply in stub.Watch(health_pb2.HealthCheckRequest(service=LIVENESS), timeout=60):
            if reply.status == status:
                break
        assert await health_of(channel, NAME) == status
    # Only the bad news is an error.
    said = [(record.levelname, record.getMessage()) for record in caplog.records if NAME in record.getMessage()]
    assert said[-2:] == [("ERROR", f"{NAME} is not serving"), ("INFO", f"{NAME} is serving again")]


async def test_a_call_in_flight_ends_well_while_the_server_drains(toy: Toy) -> None:
    server = RunningServer(toy, ServiceSettings.load(drain_s=60))
    async with server, grpc.aio.insecure_channel(server.address) as channel:
        call = critic_pb2_grpc.CriticServiceStub(channel).Critique(critic_pb2.CritiqueRequest())
        await asyncio.wait_for(toy.servicer.entered.wait(), 60)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=NAME), timeout=60)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        toy.servicer.release.set()
        assert (await call).text == "done"
        await stopping
    assert toy.stopped


class Loading(Toy):
    """A component whose start never ends by itself, and takes its time to give up, or fails."""

    def __init__(self, fault: Exception | None = None) -> None:
        super().__init__()
        self.fault = fault
        self.loading = asyncio.Event()
        self.gave_up = False
        self.stopped_when_given_up = False

    async def start(self) -> None:
        if self.fault is not None:
            raise self.fault
        self.loading.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(10_000):
                await asyncio.sleep(0)
            self.gave_up = True

    async def stop(self) -> None:
        await super().stop()
        self.stopped_when_given_up = self.gave_up


async def test_a_start_that_a_signal_ends_has_ended_when_its_component_is_stopped() -> None:
    component = Loading()
    serving = asyncio.create_task(serve(component, ServiceSettings.load(drain_s=0)))
    await component.loading.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, 30)
    assert component.stopped_when_given_up


async def test_a_start_that_fails_leaves_no_server_behind() -> None:
    port = free_port()
    component = Loading(errors.ConfigurationError("There is no model."))
    with pytest.raises(errors.ConfigurationError, match="no model"):
        async with RunningServer(component, ServiceSettings.load(port=port, drain_s=0)):
            raise AssertionError("it cannot have started")
    assert component.stopped
    async with RunningServer(Toy(), ServiceSettings.load(port=port, drain_s=0)) as server:
        assert server.port == port


async def test_metrics_are_served_beside_the_calls_until_the_server_stops(toy: Toy) -> None:
    port = free_port()
    async with RunningServer(toy, ServiceSettings.load(metrics_port=port)):
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read())
        assert b"mondrian_rpc_seconds" in page
        # Another service of this machine that was given the same port says so, and names the setting.
        with pytest.raises(errors.ConfigurationError, match=f"metrics.*{port}.*MONDRIAN_METRICS_PORT"):
            await RunningServer(Toy(), ServiceSettings.load(metrics_port=port)).listen()
    with pytest.raises(urllib.error.URLError):
        await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics")


async def test_a_port_in_use_is_one_sentence(toy: Toy) -> None:
    async with RunningServer(toy, ServiceSettings.load()) as server:
        with pytest.raises(errors.ConfigurationError, match="port is in use"):
            await RunningServer(Toy(), ServiceSettings.load(port=server.port)).listen()


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_a_service_listens_on_an_address_of_version_6(toy: Toy, host: str) -> None:
    settings = ServiceSettings.load(host=host, metrics_port=free_port())
    async with running(toy, settings) as address, grpc.aio.insecure_channel(address) as channel:
        assert address.startswith("[::1]:")
        assert await health_of(channel, NAME) == health_pb2.HealthCheckResponse.SERVING


def test_listening_beyond_loopback_needs_a_decision() -> None:
    with pytest.raises(errors.ConfigurationError, match="allow_plaintext"):
        ServiceSettings.load(host="0.0.0.0")
    assert ServiceSettings.load(host="0.0.0.0", allow_plaintext=True).host == "0.0.0.0"


async def test_tls_serves_and_a_renewed_certificate_is_used_without_a_restart(toy: Toy, tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def issue() -> bytes:
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
        )
        out = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run([*command.split(), *out], check=True, capture_output=True)
        return certificate.read_bytes()

    issue()
    settings = ServiceSettings.load(host="localhost", tls_certificate=certificate, tls_key=key)
    async with running(toy, settings) as address:
        for _ in range(2):
            trusted = issue()
            credentials = grpc.ssl_channel_credentials(trusted)
            async with grpc.aio.secure_channel(address, credentials) as channel:
                assert await health_of(channel, NAME) == health_pb2.HealthCheckResponse.SERVING
            presented = await asyncio.to_thread(ssl.get_server_certificate, ("localhost", int(address.split(":")[1])))
            assert ssl.PEM_cert_to_DER_cert(presented) == ssl.PEM_cert_to_DER_cert(trusted.decode())


def test_core_gateway_and_command_line_import_no_model_library() -> None:
    code = (
        "import sys, services.core.rpc.server, services.core.batching, services.core.models.devices, "
        "services.gateway.servicer, services.cli.commands; "
        "print(sorted({'torch','transformers','peft','open_clip','hnswlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_settings_that_do_not_fit_end_the_process_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MONDRIAN_PORT", "99999")
    with pytest.raises(SystemExit) as ended:
        main(lambda settings: Toy(), ServiceSettings, [])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("mondrian: The settings do not fit: MONDRIAN_PORT: ")
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_settings_that_do_not_fit_together_are_named_by_their_own_sentence() -> None:
    with pytest.raises(errors.ConfigurationError) as refused:
        ServiceSettings.load(tls_key="tls.key")
    assert str(refused.value) == (
        "The settings do not fit: tls_certificate and tls_key are set together or not at all."
    )
