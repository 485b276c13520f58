"""The gateway, from the command line's side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Annotated, Final

import grpc
import typer
from google.rpc import code_pb2, status_pb2
from mondrian.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.cli.failures import CommandFailed
from services.cli.settings import ClientSettings
from services.core.errors import in_contract, reason_of, retry_delay_s, rpc_status_of
from services.core.rpc.channels import channel_options
from services.core.rpc.tls import client_credentials
from services.core.rpc.tokens import Tokens

LIST_TIMEOUT_S: Final = 10.0
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", help="The gateway; else MONDRIAN_GATEWAY_HOST and _PORT."),
]


class CallFailed(CommandFailed):
    """A call that ended without an answer."""

    def __init__(self, sentence: str, status: types_pb2.Status) -> None:
        super().__init__(sentence)
        self.status = status
        """What the call ended with."""


class Gateway:
    """A connection to the gateway; a context manager. Every method raises CallFailed."""

    def __init__(self, address: str, settings: ClientSettings) -> None:
        self.address = address
        self._channel = _channel(address, settings)
        self._metadata = Tokens(settings.tokens_file).metadata() if settings.tokens_file else ()
        self._stub = gateway_pb2_grpc.GatewayServiceStub(self._channel)

    def __enter__(self) -> Gateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def analyze(self, request: gateway_pb2.AnalyzeRequest, timeout_s: float) -> gateway_pb2.AnalyzeResponse:
        """Returns the whole answer within `timeout_s` seconds."""
        with self._sentences(timeout_s):
            return self._stub.Analyze(request, timeout=timeout_s, metadata=self._metadata)

    def stream(
        self, request: gateway_pb2.AnalyzeRequest, timeout_s: float
    ) -> Iterator[gateway_pb2.StreamAnalyzeResponse]:
        """Yields the events of an answer, `completed` as the last."""
        with self._sentences(timeout_s):
            wrapped = gateway_pb2.StreamAnalyzeRequest(request=request)
            yield from self._stub.StreamAnalyze(wrapped, timeout=timeout_s, metadata=self._metadata)

    def batch(
        self, requests: Iterator[gateway_pb2.AnalyzeBatchRequest], timeout_s: float
    ) -> Iterator[gateway_pb2.AnalyzeBatchResponse]:
        """Yields the results of many photographs in the order in which they are ready."""
        with self._sentences(timeout_s):
            yield from self._stub.AnalyzeBatch(requests, timeout=timeout_s, metadata=self._metadata)

    def advisors(self) -> tuple[list[gateway_pb2.AdvisorSummary], list[gateway_pb2.Failure]]:
        """Returns all advisors by id, and the parts that could not be asked about them."""
        advisors: list[gateway_pb2.AdvisorSummary] = []
        token = ""
        while True:
            with self._sentences(LIST_TIMEOUT_S):
                page = self._stub.ListAdvisors(
                    gateway_pb2.ListAdvisorsRequest(page_size=200, page_token=token),
                    timeout=LIST_TIMEOUT_S,
                    metadata=self._metadata,
                )
            advisors.extend(page.advisors)
            token = page.next_page_token
            if not token:
                return advisors, list(page.failures)

    @contextlib.contextmanager
    def _sentences(self, timeout_s: float) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            status = rpc_status_of(error)
            raise CallFailed(self._sentence(status, timeout_s), in_contract(status)) from error

    def _sentence(self, status: status_pb2.Status, timeout_s: float) -> str:
        reason = reason_of(status)
        if status.code == code_pb2.UNAVAILABLE and not reason:
            return (
                f"No gateway answers at {self.address}; start the services with `mondrian up`, or name another"
                " with --address HOST:PORT."
            )
        if status.code == code_pb2.UNAUTHENTICATED:
            return (
                f"The gateway at {self.address} does not accept the token that was sent, if any; set"
                " MONDRIAN_GATEWAY_TOKENS_FILE to a file whose first line is one that it does."
            )
        if status.code == code_pb2.UNIMPLEMENTED:
            return f"What answers at {self.address} is not a Mondrian gateway; name it with --address HOST:PORT."
        if status.code == code_pb2.DEADLINE_EXCEEDED and not reason:
            return f"There was no answer within {timeout_s:g} s; allow more time with --timeout, or ask for less."
        if status.code == code_pb2.CANCELLED:
            return "The call was cancelled before the answer was ready; try again."
        message = status.message.rstrip(".")
        wait = retry_delay_s(status)
        return f"{message}; try again in {wait:.1g} s." if wait and "try again" not in message else f"{message}."


def _channel(address: str, settings: ClientSettings) -> grpc.Channel:
    if settings.tls_authority is None:
        return grpc.insecure_channel(address, options=channel_options())
    credentials = client_credentials(settings.tls_authority, settings.tls_client_certificate, settings.tls_client_key)
    return grpc.secure_channel(address, credentials, options=channel_options())
