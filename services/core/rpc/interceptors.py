"""The one interceptor: errors become statuses, calls are counted, timed and logged without their content."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from grpc_status import rpc_status

from services.core import errors
from services.core.batching.byte_budget import ByteBudget
from services.core.rpc.deadlines import Context
from services.core.telemetry import tracing
from services.core.telemetry.metrics import RPC_IN_FLIGHT, RPC_SECONDS

log = logging.getLogger("mondrian.rpc")
REQUEST_ID: Final = "x-request-id"
# Probes come every few seconds and would bury the calls that matter.
_QUIET: Final = (
    "/grpc.health.",
    "/grpc.reflection.",
    "/grpc.channelz.",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/inference.GRPCInferenceService/ModelReady",
)
# Timeouts are rounded up on their way, by a hundredth at most, and the caller's own clock ends the call first.
_TIME_IS_UP: Final = 0.02
# A listing has a place beside any number of photographs.
_LIGHT_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class _Received:
    """A request as it came: the message, or the error of decoding it, and its size in bytes."""

    message: Any
    size: int


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler: MondrianError -> its row of the table, anything else -> INTERNAL with a request id.

    A request for which the byte budget has no room is refused. Streams of requests are not counted here: only their
    reader knows when it has finished with a request.
    """

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the handler of a call, wrapped."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or method.startswith(_QUIET):
            return handler
        for kind, wrap in (
            ("unary_unary", _unary),
            ("stream_unary", _unary),
            ("unary_stream", _stream),
            ("stream_stream", _stream),
        ):
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                make = getattr(grpc, f"{kind}_rpc_method_handler")
                wrapped: grpc.RpcMethodHandler[Any, Any] = make(
                    wrap(behaviour, method, self._budget),
                    _lenient(handler.request_deserializer),
                    handler.response_serializer,
                )
                return wrapped
        return handler


class _Call:
    """One call from arrival to its end: request id, in-flight gauge, duration, log line."""

    def __init__(self, method: str, context: Context) -> None:
        self.method = method
        self.context = context
        self.code = grpc.StatusCode.CANCELLED
        metadata = _text(context)
        self.request_id = _request_id(metadata)
        self.started = time.perf_counter()
        self._seconds = context.time_remaining()
        self._span = tracing.answering(method, metadata)

    def __enter__(self) -> _Call:
        self._span.__enter__()
        RPC_IN_FLIGHT.labels(self.method).inc()
        self.context.set_trailing_metadata(((REQUEST_ID, self.request_id),))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self.started
        if self.code is grpc.StatusCode.CANCELLED and self._is_late():
            self.code = grpc.StatusCode.DEADLINE_EXCEEDED
        RPC_IN_FLIGHT.labels(self.method).dec()
        RPC_SECONDS.labels(self.method, self.code.name).observe(seconds)
        log.info(
            "%s %s",
            self.method,
            self.code.name,
            extra={"ms": round(seconds * 1e3, 1), "request_id": self.request_id, **tracing.trace_fields()},
        )
        tracing.record(request_id=self.request_id)
        tracing.ended(self.code)
        self._span.__exit__(kind, error, trace)

    def _is_late(self) -> bool:
        """Returns whether the caller's deadline has passed: the library cancels the handler in that case too."""
        left = self.context.time_remaining()
        return self._seconds is not None and left is not None and left <= _TIME_IS_UP * self._seconds

    def done(self) -> None:
        """Records success, or the code that the handler set itself."""
        # The library gives a number or a StatusCode, and 0 or None for a call that was not ended by hand.
        code = cast("int | grpc.StatusCode | None", self.context.code()) or 0
        self.code = errors.CODES.get(code if isinstance(code, int) else code.value[0], grpc.StatusCode.UNKNOWN)

    async def fail(self, error: Exception) -> None:
        """Ends the call with the status of `error`."""
        if isinstance(error, errors.MondrianError):
            status = errors.to_rpc_status(error)
        else:
            log.error("request %s failed", self.request_id, exc_info=error)
            status = errors.internal_status(self.request_id)
        self.code = errors.CODES[status.code]
        # The traceback's frames refer to the photograph, and as garbage of few objects they would be collected late.
        traceback.clear_frames(error.__traceback__)
        await self._abort(status)

    async def _abort(self, status: status_pb2.Status) -> None:
        rich = rpc_status.to_status(status)
        trailing = ((REQUEST_ID, self.request_id), *rich.trailing_metadata)
        await self.context.abort(rich.code, rich.details, trailing)


def _unary(behaviour: Callable[..., Awaitable[Any]], method: str, budget: ByteBudget) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        with _Call(method, context) as this:
            try:
                with _counted(request, budget):
                    response = await behaviour(_readable(request), context)
            except grpc.aio.AbortError:
                this.done()
                raise
            except Exception as error:
                request = None  # this frame is the one that cannot be cleared yet
                await this.fail(error)
                raise
            this.done()
            return response

    return call


def _stream(
    behaviour: Callable[..., AsyncIterator[Any]], method: str, budget: ByteBudget
) -> Callable[..., AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        with _Call(method, context) as this:
            responses: AsyncIterator[Any] | None = None
            try:
                with _counted(request, budget):
                    responses = behaviour(_readable(request), context)
                    async for response in responses:
                        yield response
            except grpc.aio.AbortError:
                this.done()
                raise
            except Exception as error:
                request = None  # this frame is the one that cannot be cleared yet
                await this.fail(error)
                raise
            finally:
                # If the client leaves, the handler ends now, not when garbage is collected.
                close = getattr(responses, "aclose", None)
                if close is not None:
                    await close()
            this.done()

    return call


def _counted(request: Any, budget: ByteBudget) -> AbstractContextManager[None]:
    heavy = isinstance(request, _Received) and request.size > _LIGHT_BYTES
    return budget.hold(request.size) if heavy else contextlib.nullcontext()


def _lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], _Received] | None:
    """Returns a deserializer that returns the error, instead of raising it, where the bytes are not a message.

    If it raised, the library would end the call itself: with UNKNOWN, uncounted, and with a traceback in the log.
    """
    if deserialize is None:
        return None

    def read(content: bytes) -> _Received:
        try:
            return _Received(deserialize(content), len(content))
        except DecodeError as error:
            return _Received(error, len(content))

    return read


def _readable(request: Any) -> Any:
    """Returns the message of a request, or a stream of the messages of many.

    Raises:
        InvalidArgument: the bytes are not a message; in a stream, once that message is reached.
    """
    if isinstance(request, AsyncIterator):
        return _each(request)
    if not isinstance(request, _Received):
        return request
    if isinstance(request.message, DecodeError):
        raise errors.InvalidArgument(
            "The request's bytes are no message of this rpc; make the client's stubs from this version's protos."
        )
    return request.message


async def _each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)


def _text(context: Context) -> dict[str, str]:
    """Returns the caller's metadata, less what is binary."""
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _request_id(metadata: Mapping[str, str]) -> str:
    """Returns the caller's request id where it is harmless, else a new one."""
    value = metadata.get(REQUEST_ID, "")
    return value if 0 < len(value) <= 64 and value.isascii() and value.isprintable() else uuid.uuid4().hex
