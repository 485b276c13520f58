"""The gateway as its server runs it: channels, the gate at the start, the servicer."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import grpc.aio
from mondrian.gateway.v1 import gateway_pb2, gateway_pb2_grpc

from services.core.errors import ConfigurationError
from services.gateway.access import Access
from services.gateway.clients import Backends, CriticClient, EmbedderClient, ScorerClient
from services.gateway.directory import Directory
from services.gateway.servicer import GatewayServicer
from services.gateway.settings import GatewaySettings

log = logging.getLogger("mondrian.gateway")

RENEW_S: Final = 10.0
"""Seconds between two looks at the TLS files."""


class GatewayComponent:
    """A services.core.rpc.server.Component.

    Once started it is SERVING, whatever happens to a backend: combined answers name what failed, and a gateway that
    left the balancer because of one backend would take away the parts that still work.
    """

    service_name: Final[str] = gateway_pb2.DESCRIPTOR.services_by_name["GatewayService"].full_name

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._access = Access(settings)
        self._renewing: asyncio.Task[None] | None = None
        self._backends: Backends | None = None
        self._directory: Directory | None = None
        self._servicer: GatewayServicer | None = None

    def register(self, server: grpc.aio.Server) -> None:
        """Opens the channels, which needs the running event loop, and adds the servicer."""
        settings, access = self._settings, self._access
        self._backends = Backends(
            EmbedderClient(settings.embedder, settings.connect_s, access),
            CriticClient(settings.critic, settings.connect_s, access),
            ScorerClient(settings.scorer, settings.connect_s, access),
        )
        self._directory = Directory(self._backends.embedder, self._backends.critic)
        self._servicer = GatewayServicer(self._backends, self._directory, settings)
        gateway_pb2_grpc.add_GatewayServiceServicer_to_server(self._servicer, server)

    async def start(self) -> None:
        """Waits for the backends, for start_gate_s at most, so that the first calls do not fail for being early."""
        assert self._backends is not None
        waiting = {asyncio.create_task(backend.ready()): backend for backend in self._backends.each()}
        try:
            await asyncio.wait(waiting, timeout=self._settings.start_gate_s)
            for task, backend in waiting.items():
                if not task.done():
                    log.warning(
                        "the %s at %s is not serving yet; answers go on without it until it is",
                        backend.name,
                        backend.address,
                    )
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

        self._renewing = asyncio.create_task(self._keep_renewed())

    async def _keep_renewed(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await self.renew()

    async def renew(self) -> None:
        """Connects anew where the TLS files of the access were renewed; calls in flight end on the old channels."""
        assert self._backends is not None
        try:
            if not self._access.renewed():
                return
        except ConfigurationError as error:
            log.error("%s The certificates in use are kept.", error)
            return
        log.info("the certificates were renewed; connecting to the backends anew")
        grace_s = self._settings.drain_s
        await asyncio.gather(*(backend.renew(grace_s) for backend in self._backends.each()))

    def healthy(self) -> bool:
        """Whether requests can be accepted: always, since an answer names the parts that failed."""
        return True

    def drain(self) -> None:
        """Lets batches end, which would go on for as long as their clients send."""
        if self._servicer is not None:
            self._servicer.drain()

    async def stop(self) -> None:
        """Closes the channels."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        if self._directory is not None:
            await self._directory.close()
        if self._backends is not None:
            for backend in self._backends.each():
                await backend.close()
