"""One service as the gateway reaches it: its channel, its calls, and how a failed call reads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from services.core.errors import (
    BackendUnavailable,
    Forwarded,
    MondrianError,
    QueuedTooLong,
    reason_of,
    rpc_status_of,
)
from services.core.rpc.pages import MAX_PAGE_SIZE
from services.core.rpc.tokens import Metadata
from services.core.telemetry import tracing
from services.gateway.access import Access
from services.gateway.channels import backend_options, service_config, target
from services.gateway.modes import CRITIQUE, REFERENCES, SCORES, Part

log = logging.getLogger("mondrian.gateway")

R = TypeVar("R", bound=Message)
NAMES: Final = {REFERENCES: "embedder", CRITIQUE: "critic", SCORES: "scorer"}


class Backend:
    """One service: its channel, and the failures of its calls in words."""

    service: str
    """The full name of its gRPC service."""
    part: Part
    """What it answers with."""

    def __init__(self, address: str, connect_s: float, access: Access) -> None:
        self.name = NAMES[self.part]
        self.address = target(address)
        self._options = backend_options(service_config(self.service), connect_s)
        self._access = access
        self.channel = access.channel(self.address, self._options)
        self._reachable = True

    async def ready(self) -> None:
        """Waits until a replica is connected and says that it is SERVING."""
        state = self.channel.get_state(try_to_connect=True)
        while state != grpc.ChannelConnectivity.READY:
            await self.channel.wait_for_state_change(state)
            state = self.channel.get_state(try_to_connect=True)

    async def renew(self, grace_s: float) -> None:
        """Opens a new channel with the TLS files as they are now; calls on the old one have `grace_s` seconds to
        end."""
        old, self.channel = self.channel, self._access.channel(self.address, self._options)
        await old.close(grace_s)

    async def close(self) -> None:
        """Closes the channel; calls in flight are cancelled."""
        await self.channel.close()

    async def _call(
        self, method: str, request: bytes | Message, response: type[R], timeout: float, metadata: Metadata
    ) -> R:
        """Returns the answer of a unary method.

        Raises:
            MondrianError: the call failed, or its answer is no `response`.
        """
        # Made for each call, which takes microseconds: the channel may have been renewed since the last.
        begin: grpc.aio.UnaryUnaryMultiCallable[Any, R | DecodeError]
        begin = self.channel.unary_unary(f"/{self.service}/{method}", _wire, _reading(response))
        try:
            answer = self._readable(await begin(request, timeout=timeout, metadata=self._carried(metadata)))
        except grpc.aio.AioRpcError as error:
            raise self._failure(error, timeout) from error
        except asyncio.CancelledError as error:
            raise self._cancelled(error) from None
        self._reached(True)
        return answer

    async def _pages(self, method: str, request: Any, response: type[R], timeout: float, metadata: Metadata) -> list[R]:
        """Returns every page of a listing, within `timeout` seconds."""
        until = time.monotonic() + timeout
        request.page_size = MAX_PAGE_SIZE
        pages: list[R] = []
        while True:
            page: Any = await self._call(method, request, response, until - time.monotonic(), metadata)
            pages.append(page)
            if not page.next_page_token:
                return pages
            request.page_token = page.next_page_token

    def _streamed(
        self, method: str, request: bytes | Message, response: type[R], timeout: float, metadata: Metadata
    ) -> grpc.aio.UnaryStreamCall[Any, R | DecodeError]:
        """Begins a call of a method that answers with a stream; bytes that are not a message come as an error in it."""
        begin: grpc.aio.UnaryStreamMultiCallable[Any, R | DecodeError]
        begin = self.channel.unary_stream(f"/{self.service}/{method}", _wire, _reading(response))
        return begin(request, timeout=timeout, metadata=self._carried(metadata))

    def _carried(self, metadata: Metadata) -> Metadata:
        """Returns what a call carries beside what its caller gives it: the gateway's token, and the trace."""
        return (*metadata, *self._access.metadata(), *tracing.context())

    def _cancelled(self, error: asyncio.CancelledError) -> BaseException:
        """Returns what a cancelled call becomes: the error itself where its caller leaves, and a failure where the
        channel was closed under it."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            return error
        return BackendUnavailable(
            f"The connection to the {self.name} was renewed before it had answered; try again in a moment.",
            metadata={"backend": self.name},
        )

    def _readable(self, answer: R | DecodeError) -> R:
        if isinstance(answer, DecodeError):
            raise self._foreign()
        return answer

    def _foreign(self) -> MondrianError:
        return BackendUnavailable(
            f"What answers at the {self.name}'s address is not {self.service}; mend the gateway's settings.",
            metadata={"backend": self.name},
        )

    def _failure(self, error: grpc.aio.AioRpcError, timeout: float) -> MondrianError:
        """Returns what a failed call becomes: the service's own status where it sent a reason, else one in words."""
        status = rpc_status_of(error)
        metadata = {"backend": self.name}
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            # The caller's own token was accepted: it can do nothing about this one.
            self._reached(False, error.details())
            return BackendUnavailable(
                f"The {self.name} does not accept the gateway's token; mend MONDRIAN_GATEWAY_BACKEND_TOKENS_FILE.",
                metadata=metadata,
            )
        if reason_of(status):
            self._reached(True)
            return Forwarded(status)
        match error.code():
            case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
                self._reached(False, error.details())
                return BackendUnavailable(
                    f"The {self.name} cannot be reached; try again in a moment.", metadata=metadata
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return QueuedTooLong(
                    f"The {self.name} did not answer within {timeout:.3g} s; allow more time.",
                    reason="BACKEND_TIMEOUT",
                    metadata=metadata,
                )
            case grpc.StatusCode.UNIMPLEMENTED:
                return self._foreign()
        status.message = f"The {self.name} failed: {status.message}"
        return Forwarded(status)

    def _reached(self, reachable: bool, why: str | None = None) -> None:
        # Once a change, not once a call: an outage must not bury the log.
        if reachable != self._reachable:
            self._reachable = reachable
            if reachable:
                log.info("the %s at %s answers again", self.name, self.address)
            else:
                log.warning("the %s at %s cannot be reached: %s", self.name, self.address, why)


def _reading(response: type[R]) -> Callable[[bytes], R | DecodeError]:
    """Returns a deserializer that returns the error, instead of raising it, where the bytes are not a `response`.

    If it raised, the library would answer None and write a traceback into the log.
    """

    def read(content: bytes) -> R | DecodeError:
        try:
            return response.FromString(content)
        except DecodeError as error:
            return error

    return read


def _wire(request: bytes | Message) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()
