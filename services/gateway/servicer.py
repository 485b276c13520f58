"""GatewayService: convert, call, convert."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from mondrian.gateway.v1 import gateway_pb2, gateway_pb2_grpc

from services.core.batching.byte_budget import ByteBudget
from services.core.errors import fields_of
from services.core.rpc.deadlines import Context
from services.core.rpc.interceptors import REQUEST_ID
from services.core.rpc.tokens import Metadata
from services.gateway.admission import Admission
from services.gateway.bulk import Bulk
from services.gateway.clients import Backends
from services.gateway.directory import Directory
from services.gateway.fanout import Analysis, Emit
from services.gateway.listing import list_advisors
from services.gateway.modes import validate
from services.gateway.settings import GatewaySettings
from services.gateway.stream import events_of

# Clients that mean "for ever" send centuries, which the library turns into a time in the past when it passes them on.
_LONGEST_S: Final = 24 * 3600.0


class GatewayServicer(gateway_pb2_grpc.GatewayServiceServicer):
    """Answers GatewayService."""

    def __init__(self, backends: Backends, directory: Directory, settings: GatewaySettings) -> None:
        self._backends = backends
        self._directory = directory
        self._settings = settings
        self._admission = Admission(settings.max_in_flight, "requests")
        self._leaving = asyncio.Event()
        self._batches = Admission(settings.max_batches, "batches")
        self._bulk_permits = asyncio.Semaphore(settings.max_batch_in_flight)
        self._bulk_bytes = ByteBudget(settings.max_bytes_in_flight)

    async def Analyze(self, request: gateway_pb2.AnalyzeRequest, context: Context) -> gateway_pb2.AnalyzeResponse:
        """Returns the answer of a mode, whole."""
        validate(request)
        with self._admission.permit():
            return await self._analysis(request, context).answer()

    async def StreamAnalyze(
        self, request: gateway_pb2.StreamAnalyzeRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.StreamAnalyzeResponse]:
        """Yields each part as soon as it is ready, and the whole answer last."""
        with fields_of("request"):
            validate(request.request)
        with self._admission.permit():
            events = events_of(lambda emit: self._analysis(request.request, context, emit=emit).answer())
            async with contextlib.aclosing(events):
                async for event in events:
                    yield event

    async def AnalyzeBatch(
        self, request_iterator: AsyncIterator[gateway_pb2.AnalyzeBatchRequest], context: Context
    ) -> AsyncIterator[gateway_pb2.AnalyzeBatchResponse]:
        """Yields the result of each photograph as it is ready; reads the next when one is done."""

        async def analyze(request: gateway_pb2.AnalyzeRequest) -> gateway_pb2.AnalyzeResponse:
            validate(request)
            async with self._bulk_permits:
                return await self._analysis(request, context, patient=True).answer()

        bulk = Bulk(analyze, self._settings.batch_in_flight, self._bulk_bytes, self._leaving)
        results = bulk.results(request_iterator)
        # Refused before anything is read: gRPC holds a photograph or two of every call that is let in.
        with self._batches.permit():
            async with contextlib.aclosing(results):
                async for result in results:
                    yield result

    async def ListAdvisors(
        self, request: gateway_pb2.ListAdvisorsRequest, context: Context
    ) -> gateway_pb2.ListAdvisorsResponse:
        """Returns one page of the advisors with what each service knows of them."""
        seconds = self._seconds(context, self._settings.clip_deadline_s)
        return await list_advisors(self._backends, request, seconds, _metadata(context))

    def drain(self) -> None:
        """Lets batches end once what they have read is answered."""
        self._leaving.set()

    def _analysis(
        self,
        request: gateway_pb2.AnalyzeRequest,
        context: Context,
        *,
        emit: Emit | None = None,
        patient: bool = False,
    ) -> Analysis:
        return Analysis(
            self._backends,
            self._directory,
            request,
            self._seconds(context, self._settings.deadline_s(request.mode)),
            _metadata(context),
            emit,
            patient,
        )

    @staticmethod
    def _seconds(context: Context, default: float) -> float:
        """Returns what is left of the client's deadline, a day at most; `default` where the client set none."""
        remaining = context.time_remaining()
        return default if remaining is None else min(remaining, _LONGEST_S)


def _metadata(context: Context) -> Metadata:
    """Returns what is sent to the backends: the request id that the interceptor gave this call."""
    return tuple(
        (key, value) for key, value in context.trailing_metadata() or () if key == REQUEST_ID and isinstance(value, str)
    )
