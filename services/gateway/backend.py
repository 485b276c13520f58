"""One service as the gateway reaches it: its channel, its calls, and how a failed call reads."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.scorer.v1 import scorer_pb2

from services.core import telemetry
from services.core.channels import ChannelOptions, channel_options
from services.core.errors import (
    BackendUnavailable,
    Forwarded,
    MondrianError,
    QueuedTooLong,
    reason_of,
    rpc_status_of,
)
from services.core.pages import MAX_PAGE_SIZE
from services.core.tokens import Metadata
from services.gateway.access import Access
from services.gateway.modes import CRITIQUE, REFERENCES, SCORES, Part

log = logging.getLogger("mondrian.gateway")

R = TypeVar("R", bound=Message)
NAMES: Final = {REFERENCES: "embedder", CRITIQUE: "critic", SCORES: "scorer"}
_LENGTH_DELIMITED: Final = 2
# The field that holds the photograph in each request.
_IMAGE_FIELD: Final = {
    embedder_pb2.SearchReferencesRequest: embedder_pb2.SearchReferencesRequest.IMAGE_FIELD_NUMBER,
    critic_pb2.CritiqueRequest: critic_pb2.CritiqueRequest.IMAGE_FIELD_NUMBER,
    scorer_pb2.ScoreRequest: scorer_pb2.ScoreRequest.IMAGE_FIELD_NUMBER,
}


def service_config(service: str, interval_s: float = 5.0) -> str:
    """Returns the gRPC service config (JSON) of the channel to one service.

    Round robin over healthy replicas only. A replica that fails four of five calls, judged every `interval_s` seconds,
    is left out for a while, but never half of them: bad photographs fail everywhere, and must not empty the balancer.
    (Ejection by success rate would need five replicas before one that always fails stands out.) UNAVAILABLE alone is
    retried, and never after the first byte of an answer; RESOURCE_EXHAUSTED is not, since repeating it multiplies an
    overload.
    """
    return json.dumps(
        {
            "loadBalancingConfig": [
                {
                    "outlier_detection_experimental": {
                        "interval": f"{interval_s:.3f}s",
                        "baseEjectionTime": "15s",
                        "maxEjectionTime": "120s",
                        "maxEjectionPercent": 34,
                        "failurePercentageEjection": {
                            "threshold": 80,
                            "enforcementPercentage": 100,
                            "minimumHosts": 2,
                            "requestVolume": 10,
                        },
                        "childPolicy": [{"round_robin": {}}],
                    }
                }
            ],
            "healthCheckConfig": {"serviceName": service},
            "methodConfig": [
                {
                    "name": [{"service": service}],
                    "retryPolicy": {
                        "maxAttempts": 3,
                        "initialBackoff": "0.05s",
                        "maxBackoff": "0.5s",
                        "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE"],
                    },
                }
            ],
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
        }
    )


def target(address: str) -> str:
    """Returns the gRPC target of an address: dns:/// before it unless it names a resolver itself."""
    return address if address.startswith(("dns:", "ipv4:", "ipv6:", "unix:")) else f"dns:///{address}"


def backend_options(config: str, connect_s: float) -> ChannelOptions:
    """Returns a backend's channel options; an attempt to connect is given up after `connect_s` seconds."""
    connect_ms = int(connect_s * 1000)
    overrides: ChannelOptions = [
        # Despite its name this bounds one attempt to connect; the default of 20 s would hold calls as long.
        ("grpc.min_reconnect_backoff_ms", connect_ms),
        # What is larger than this buffer is not retried; the default is 256 KiB, less than most photographs.
        ("grpc.per_rpc_retry_buffer_size", 16 * 1024 * 1024),
        # Backends are on the same network: a proxy that the environment names is for the world outside.
        ("grpc.enable_http_proxy", 0),
    ]
    names = {name for name, _ in overrides}
    return [option for option in channel_options(config) if option[0] not in names] + overrides


def serialized(request: Message, photograph: bytes) -> bytes:
    """Returns the wire form of `request` with `photograph` (a serialised types.v1.Image) as its image.

    Fields of a message may come in any order on the wire, so the photograph is put behind the others as it is: one
    copy of its bytes for each part instead of three (into the message, within it, out of it).
    """
    tag = _IMAGE_FIELD[type(request)] << 3 | _LENGTH_DELIMITED
    return b"".join((request.SerializeToString(), _varint(tag), _varint(len(photograph)), photograph))


def wrapped(field: int, message: bytes) -> bytes:
    """Returns the wire form of a message that holds nothing but `message`, serialised, in a field."""
    return b"".join((_varint(field << 3 | _LENGTH_DELIMITED), _varint(len(message)), message))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


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
        return (*metadata, *self._access.metadata(), *telemetry.context())

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
