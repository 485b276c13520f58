"""The server that every service runs in: health, reflection, channelz, metrics, TLS, start-up, drain.

Start-up: listen (NOT_SERVING), load, warm up, SERVING. A fault is one sentence on stderr and exit code 2.
SIGTERM or SIGINT: NOT_SERVING, lame duck, refuse new calls, finish those in flight, exit code 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NoReturn, Protocol, TypeVar, runtime_checkable
from wsgiref.simple_server import WSGIServer

import grpc
import grpc.aio
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from services.core.batching.byte_budget import ByteBudget
from services.core.commands import usage
from services.core.errors import ConfigurationError
from services.core.rpc.aio_server import make_server
from services.core.rpc.channels import server_options
from services.core.rpc.interceptors import CallInterceptor
from services.core.rpc.tls import server_credentials
from services.core.rpc.tokens import TokenInterceptor, Tokens
from services.core.settings import ServiceSettings, before_port
from services.core.telemetry import tracing
from services.core.telemetry.logs import configure_logging

log = logging.getLogger("mondrian.server")

LIVENESS: Final = "liveness"
"""The health name that says whether the process should be restarted; a busy process is alive."""
HEARTBEAT_S: Final = 1.0
S = TypeVar("S", bound=ServiceSettings)
_Status = health_pb2.HealthCheckResponse


class Component(Protocol):
    """What a service gives to its server."""

    @property
    def service_name(self) -> str:
        """The full name of the gRPC service, which is also its health name."""

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer."""

    async def start(self) -> None:
        """Loads the model and runs a warm-up inference. ConfigurationError ends the process."""

    def healthy(self) -> bool:
        """Whether requests can be answered; False makes the service NOT_SERVING and not alive."""

    async def stop(self) -> None:
        """Gives everything back; no call is in flight any more."""


@runtime_checkable
class Drains(Protocol):
    """A component with calls that would outlast the drain, such as streams that end when their client likes."""

    def drain(self) -> None:
        """Lets those calls end soon, and well: nothing new is begun, what was begun is finished."""


@runtime_checkable
class ServesMore(Protocol):
    """A component that answers other gRPC services beside its own, on the same port and with the same health."""

    @property
    def further_names(self) -> tuple[str, ...]:
        """Their full names."""


class RunningServer:
    """A component behind a listening server; an async context manager."""

    def __init__(self, component: Component, settings: ServiceSettings) -> None:
        self.component = component
        self.settings = settings
        self.port = 0
        self._health = health.aio.HealthServicer()
        # Tokens are checked inside the other interceptor, so that refused calls are counted and logged too.
        tokens = [TokenInterceptor(Tokens(settings.tokens_file))] if settings.tokens_file else []
        calls = CallInterceptor(ByteBudget(settings.max_bytes_in_flight))
        options = server_options(settings.max_connection_age_s)
        self._server = make_server([calls, *tokens], options)
        self._probed = make_server([], options) if settings.health_port else None
        self._heartbeat: asyncio.Task[None] | None = None
        self._metrics: WSGIServer | None = None

    @property
    def _names(self) -> tuple[str, ...]:
        further = self.component.further_names if isinstance(self.component, ServesMore) else ()
        return (self.component.service_name, *further)

    @property
    def address(self) -> str:
        """Where a client reaches the server, as host:port."""
        return f"{before_port(self.settings.host)}:{self.port}"

    async def listen(self) -> None:
        """Opens the port and answers health checks, with NOT_SERVING for the service.

        Raises:
            ConfigurationError: the port is in use, or the TLS files cannot be used.
        """
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        channelz.add_channelz_servicer(self._server)
        self.component.register(self._server)
        reflected = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(reflected, self._server)
        await self._set(_Status.NOT_SERVING)
        await self._health.set(LIVENESS, _Status.SERVING)
        settings = self.settings
        credentials = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            credentials = server_credentials(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        self.port = self._bind(self._server, settings.port, "PORT", credentials)
        if self._probed is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probed)
            self._bind(self._probed, settings.health_port, "HEALTH_PORT")
            await self._probed.start()
        if settings.metrics_port:
            self._metrics = _serve_metrics(settings)
        await self._server.start()

    def _bind(
        self, server: grpc.aio.Server, port: int, variable: str, credentials: grpc.ServerCredentials | None = None
    ) -> int:
        wanted = f"{before_port(self.settings.host)}:{port}"
        try:
            bound = server.add_secure_port(wanted, credentials) if credentials else server.add_insecure_port(wanted)
        except RuntimeError:
            bound = 0
        if bound == 0:
            raise ConfigurationError(
                f"The address {wanted} cannot be listened on, probably because the port is in use: stop the process "
                f"that has it, or set {self.settings.prefix()}{variable} to another port."
            )
        return bound

    async def start(self) -> None:
        """Loads the component, then answers SERVING."""
        await self.component.start()
        await self._set(_Status.SERVING)
        self._heartbeat = asyncio.create_task(self._watch())
        log.info("%s serves on %s", self.component.service_name, self.address)

    async def _set(self, status: int) -> None:
        for name in (*self._names, ""):
            await self._health.set(name, status)

    async def _watch(self) -> None:
        healthy = True
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self.component.healthy() != healthy:
                healthy = not healthy
                await self._set(_Status.SERVING if healthy else _Status.NOT_SERVING)
                await self._health.set(LIVENESS, _Status.SERVING if healthy else _Status.NOT_SERVING)
                level, word = (logging.INFO, "serving again") if healthy else (logging.ERROR, "not serving")
                log.log(level, "%s is %s", self.component.service_name, word)

    async def stop(self) -> None:
        """Drains: NOT_SERVING, lame duck, no new calls, finish those in flight for at most drain_s, stop."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._heartbeat
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self.settings.lame_duck_s)
        if isinstance(self.component, Drains):
            self.component.drain()
        await self._server.stop(self.settings.drain_s)
        if self._probed is not None:
            await self._probed.stop(0)
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.shutdown)
            self._metrics.server_close()
        await self.component.stop()

    async def __aenter__(self) -> RunningServer:
        await self.listen()
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()


@contextlib.asynccontextmanager
async def running(component: Component, settings: ServiceSettings) -> AsyncIterator[str]:
    """Serves a component in this process and yields its address once it is SERVING."""
    async with RunningServer(component, settings) as server:
        yield server.address


def _serve_metrics(settings: ServiceSettings) -> WSGIServer:
    """Returns the server of Prometheus' metrics, which answers from a thread of its own."""
    try:
        server, _ = start_http_server(settings.metrics_port, settings.host.strip("[]"))
    except OSError as error:
        raise ConfigurationError(
            f"The metrics cannot be served on {settings.host}:{settings.metrics_port} "
            f"({(error.strerror or 'unknown').lower()}); set {settings.prefix()}METRICS_PORT to a free port."
        ) from error
    return server


async def serve(component: Component, settings: ServiceSettings) -> None:
    """Serves until SIGTERM or SIGINT, then drains. Loading is given up when the signal comes first.

    Raises:
        ConfigurationError: start-up cannot go on.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    log.info(usage.in_effect(settings))
    server = RunningServer(component, settings)
    await server.listen()
    starting = asyncio.create_task(server.start())
    waiting = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            await waiting
    finally:
        for task in (starting, waiting):
            task.cancel()
        # After this, what start-up made is either released or known to the component, which is stopped next.
        await asyncio.gather(starting, waiting, return_exceptions=True)
        log.info("draining")
        await server.stop()
    log.info("stopped")


def main(
    make_component: Callable[[S], Component], settings_class: type[S], arguments: Sequence[str] | None = None
) -> NoReturn:
    """Runs a service as a process and exits: 0 after a drain, 2 with one sentence when it cannot start.

    `arguments` are those of the process where they are None.
    """
    usage.read_arguments(settings_class, arguments)
    try:
        settings = settings_class.load()
        configure_logging(settings.log_level, settings.log_format)
        log.info("mondrian %s", importlib.metadata.version("mondrian"))
        for sentence in usage.misspelt(settings_class):
            log.warning(sentence)
        component = make_component(settings)
        with tracing.exporting(f"mondrian-{settings.service()}"):
            asyncio.run(serve(component, settings))
    except ConfigurationError as error:
        print(f"mondrian: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
