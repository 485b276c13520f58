"""A real server in this process: health, errors over the wire, drain, TLS."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc
from prometheus_client import REGISTRY

from services.core import errors
from services.core.channels import channel_options
from services.core.server import LIVENESS, RunningServer, main, running, serve
from services.core.settings import ServiceSettings
from tests.processes import free_port

_Status = health_pb2.HealthCheckResponse
NAME = "mondrian.critic.v1.CriticService"
EXPECTED_CODES = {
    "InvalidArgument": "INVALID_ARGUMENT",
    "InvalidImage": "INVALID_ARGUMENT",
    "InvalidText": "INVALID_ARGUMENT",
    "InvalidEmbedding": "INVALID_ARGUMENT",
    "Unauthenticated": "UNAUTHENTICATED",
    "AdvisorNotFound": "NOT_FOUND",
    "ReferenceNotFound": "NOT_FOUND",
    "ModelNotFound": "NOT_FOUND",
    "EncoderMismatch": "FAILED_PRECONDITION",
    "Overloaded": "RESOURCE_EXHAUSTED",
    "DeviceMemory": "RESOURCE_EXHAUSTED",
    "NotReady": "UNAVAILABLE",
    "Draining": "UNAVAILABLE",
    "EngineStopped": "UNAVAILABLE",
    "NoRelease": "UNAVAILABLE",
    "BackendUnavailable": "UNAVAILABLE",
    "QueuedTooLong": "DEADLINE_EXCEEDED",
}


class Scripted(critic_pb2_grpc.CriticServiceServicer):
    """Raises what it is told to, and notices when a stream ends."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.closed = asyncio.Event()
        self.request: object = None

    async def Critique(self, request: critic_pb2.CritiqueRequest, context: object) -> critic_pb2.CritiqueResponse:
        self.request = request
        if self.error is not None:
            raise self.error
        self.entered.set()
        await self.release.wait()
        return critic_pb2.CritiqueResponse(text="done")

    async def StreamCritique(
        self, request: critic_pb2.StreamCritiqueRequest, context: object
    ) -> AsyncIterator[critic_pb2.StreamCritiqueResponse]:
        self.request = request
        self.entered.set()
        try:
            yield critic_pb2.StreamCritiqueResponse(started=critic_pb2.Started())
            if self.error is not None:
                raise self.error
            await self.release.wait()
        finally:
            self.closed.set()

    async def ListAdapters(
        self, request: critic_pb2.ListAdaptersRequest, context: object
    ) -> critic_pb2.ListAdaptersResponse:
        return critic_pb2.ListAdaptersResponse()


class Toy:
    """A component without a model."""

    service_name = NAME

    def __init__(self) -> None:
        self.servicer = Scripted()
        self.alive = True
        self.stopped = False

    def register(self, server: grpc.aio.Server) -> None:
        critic_pb2_grpc.add_CriticServiceServicer_to_server(self.servicer, server)

    async def start(self) -> None:
        pass

    def healthy(self) -> bool:
        return self.alive

    async def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
async def channel(toy: Toy) -> AsyncIterator[grpc.aio.Channel]:
    settings = ServiceSettings.load(drain_s=5)
    async with (
        running(toy, settings) as address,
        grpc.aio.insecure_channel(address, options=channel_options()) as opened,
    ):
        yield opened
        toy.servicer.release.set()


async def health_of(channel: grpc.aio.Channel, name: str) -> int:
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
    return int(reply.status)


async def failed(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def test_the_table_holds_every_error_and_no_other() -> None:
    assert {kind.__name__: row.code.name for kind, row in errors.TABLE.items()} == EXPECTED_CODES


@pytest.mark.parametrize("kind", list(errors.TABLE), ids=lambda kind: kind.__name__)
async def test_every_row_of_the_table_crosses_the_wire(
    kind: type[errors.MondrianError], toy: Toy, channel: grpc.aio.Channel
) -> None:
    toy.servicer.error = kind("Say why.", retry_after_s=1.5, field="image")
    error = await failed(critic_pb2_grpc.CriticServiceStub(channel).Critique(critic_pb2.CritiqueRequest()))
    status = errors.rpc_status_of(error)
    assert error.code().name == EXPECTED_CODES[kind.__name__]
    assert error.details() == "Say why."
    assert errors.reason_of(status) == errors.TABLE[kind].reason
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToMilliseconds() == 1500
    wrong = error_details_pb2.BadRequest()
    assert any(detail.Unpack(wrong) for detail in status.details)
    assert wrong.field_violations[0].field == "image"


async def test_an_unknown_failure_tells_only_its_request_id(toy: Toy, channel: grpc.aio.Channel) -> None:
    toy.servicer.error = ValueError("a secret path")
    stub = critic_pb2_grpc.CriticServiceStub(channel)
    error = await failed(stub.Critique(critic_pb2.CritiqueRequest(), metadata=(("x-request-id", "abc-1"),)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "abc-1" in (error.details() or "")
    assert "secret" not in (error.details() or "")


async def test_a_failing_stream_ends_with_its_status(toy: Toy, channel: grpc.aio.Channel) -> None:
    toy.servicer.error = errors.Overloaded("Full.", retry_after_s=1)
    call = critic_pb2_grpc.CriticServiceStub(channel).StreamCritique(critic_pb2.StreamCritiqueRequest())
    started = await call.read()
    assert isinstance(started, critic_pb2.StreamCritiqueResponse)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["Critique", "StreamCritique"])
async def test_bytes_that_are_no_message_are_the_callers_fault_and_leave_no_trace_in_the_log(
    toy: Toy, channel: grpc.aio.Channel, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{NAME}/{method}")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xff\xff\xff")
    assert errors.reason_of(errors.rpc_status_of(caught.value)) == "INVALID_ARGUMENT"
    assert "no message" in (caught.value.details() or "")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_request_that_could_unfold_in_memory_is_refused_as_it_is(
    toy: Toy, channel: grpc.aio.Channel, compression: grpc.Compression
) -> None:
    photograph = critic_pb2.CritiqueRequest()
    photograph.image.content = bytes(1_000_000)
    toy.servicer.release.set()
    call = critic_pb2_grpc.CriticServiceStub(channel).Critique(photograph, compression=compression)
    with pytest.raises(grpc.aio.AioRpcError, match="is disabled") as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not toy.servicer.entered.is_set()


async def test_requests_too_large_to_be_answered_together_are_refused_at_once(toy: Toy) -> None:
    settings = ServiceSettings.load(port=0, drain_s=0, max_bytes_in_flight=1_000_000)
    photograph = critic_pb2.CritiqueRequest()
    photograph.image.content = bytes(600_000)
    async with running(toy, settings) as address, grpc.aio.insecure_channel(address, channel_options()) as channel:
        stub = critic_pb2_grpc.CriticServiceStub(channel)
        first = stub.Critique(photograph)
        await toy.servicer.entered.wait()
        with pytest.raises(grpc.aio.AioRpcError, match="try again") as caught:
            await stub.Critique(photograph)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        small = stub.Critique(critic_pb2.CritiqueRequest())
        toy.servicer.release.set()
        assert (await first).text == (await small).text == "done"
        assert (await stub.Critique(photograph)).text == "done"


async def test_a_call_that_failed_keeps_its_photograph_no_longer(toy: Toy, channel: grpc.aio.Channel) -> None:
    stub = critic_pb2_grpc.CriticServiceStub(channel)
    toy.servicer.error = errors.InvalidImage("It is no photograph.")
    gc.disable()
    try:
        for call in (
            stub.Critique(critic_pb2.CritiqueRequest()),
            _read(stub.StreamCritique(critic_pb2.StreamCritiqueRequest())),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="no photograph"):
                await call
            # Another call, so that the library has done with the first.
            await stub.ListAdapters(critic_pb2.ListAdaptersRequest())
            references = sys.getrefcount(toy.servicer.request)
            assert references == 2  # the attribute, and what is asked
    finally:
        gc.enable()


async def _read(stream: AsyncIterable[object]) -> None:
    async for _ in stream:
        pass


async def test_a_stream_that_is_cancelled_closes_its_handler(toy: Toy, channel: grpc.aio.Channel) -> None:
    call = critic_pb2_grpc.CriticServiceStub(channel).StreamCritique(critic_pb2.StreamCritiqueRequest())
    await call.read()
    call.cancel()
    await asyncio.wait_for(toy.servicer.closed.wait(), 10)


@pytest.mark.parametrize(("method", "answer"), [("Critique", "unary_unary"), ("StreamCritique", "unary_stream")])
async def test_a_call_whose_time_is_up_is_counted_as_late_and_one_that_is_given_up_is_not(
    toy: Toy, method: str, answer: str
) -> None:
    def counted(code: str) -> float:
        labels = {"method": f"/{NAME}/{method}", "code": code}
        return REGISTRY.get_sample_value("mondrian_rpc_seconds_count", labels) or 0.0

    before = counted("DEADLINE_EXCEEDED"), counted("CANCELLED")
    async with running(toy, ServiceSettings.load()) as address, grpc.aio.insecure_channel(address) as channel:
        late = getattr(channel, answer)(f"/{NAME}/{method}")(b"", timeout=2.0)
        await toy.servicer.entered.wait()
        assert await late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        toy.servicer.entered.clear()
        left = getattr(channel, answer)(f"/{NAME}/{method}")(b"", timeout=60.0)
        await toy.servicer.entered.wait()
        left.cancel()
    assert (counted("DEADLINE_EXCEEDED"), counted("CANCELLED")) == (before[0] + 1, before[1] + 1)


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
        async for reply in stub.Watch(health_pb2.HealthCheckRequest(service=LIVENESS), timeout=10):
            if reply.status == status:
                break
        assert await health_of(channel, NAME) == status
    # Only the bad news is an error.
    said = [(record.levelname, record.getMessage()) for record in caplog.records if NAME in record.getMessage()]
    assert said[-2:] == [("ERROR", f"{NAME} is not serving"), ("INFO", f"{NAME} is serving again")]


async def test_a_call_in_flight_ends_well_while_the_server_drains(toy: Toy) -> None:
    server = RunningServer(toy, ServiceSettings.load(drain_s=10))
    async with server, grpc.aio.insecure_channel(server.address) as channel:
        call = critic_pb2_grpc.CriticServiceStub(channel).Critique(critic_pb2.CritiqueRequest())
        await asyncio.wait_for(toy.servicer.entered.wait(), 10)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=NAME), timeout=10)
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
        "import sys, services.core.server, services.core.batching, services.core.devices, services.gateway.servicer, "
        "services.cli.commands; print(sorted({'torch','transformers','peft','open_clip','hnswlib'} & set(sys.modules)))"
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
