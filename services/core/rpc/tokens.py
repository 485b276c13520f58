"""Bearer tokens: who may call. A file holds them, one a line, and is read again when it changes.

To change a token without an outage, in the files of both ends: add the new one as a second line, then move it to the
first, then remove the old one. Clients send the first; servers accept each.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from grpc_status import rpc_status

from services.core.errors import ConfigurationError, Unauthenticated, to_rpc_status
from services.core.files.changes import Watched
from services.core.rpc.deadlines import Context

log = logging.getLogger("mondrian.server")

HEADER: Final = "authorization"
SCHEME: Final = "Bearer "
LEAST_CHARS: Final = 16
"""A token that could be guessed is refused when the file is read."""
# Probes and balancers carry no token, and learn nothing but that the service serves.
_OPEN: Final = "/grpc.health.v1.Health/"

Metadata = tuple[tuple[str, str], ...]


class Tokens:
    """The tokens of a file. Lines that are empty or begin with # are none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = Watched([path])
        self._tokens = _read(path)
        self._digests = _digests(self._tokens)

    def accept(self, metadata: Sequence[tuple[str, str | bytes]]) -> bool:
        """Returns whether a call's metadata carries one of the tokens."""
        self._refresh()
        # Digests are looked up, so that timing reveals nothing about a token.
        return any(
            key == HEADER
            and isinstance(value, str)
            and value[: len(SCHEME)].lower() == SCHEME.lower()
            and _digest(value[len(SCHEME) :]) in self._digests
            for key, value in metadata
        )

    def metadata(self) -> Metadata:
        """Returns what a client sends: the first token."""
        self._refresh()
        return ((HEADER, SCHEME + self._tokens[0]),)

    def _refresh(self) -> None:
        if not self._file.changed():
            return
        try:
            self._tokens = _read(self._path)
        except ConfigurationError as error:
            log.error("%s The tokens in use are kept.", error)
            return
        self._digests = _digests(self._tokens)
        log.info("the tokens of %s were read anew", self._path)


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses every call without a token that is accepted, but for health checks; nothing of its request is parsed."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the handler of a call, or one that ends it with UNAUTHENTICATED."""
        handler = await continuation(handler_call_details)
        if (
            handler is None
            or handler_call_details.method.startswith(_OPEN)
            or self._tokens.accept(handler_call_details.invocation_metadata or ())
        ):
            return handler
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(_refuse)
        return grpc.unary_unary_rpc_method_handler(_refuse)


async def _refuse(request: object, context: Context) -> None:
    refusal = Unauthenticated("The call carries no bearer token that is accepted; send one as `authorization`.")
    status = rpc_status.to_status(to_rpc_status(refusal))
    await context.abort(status.code, status.details, status.trailing_metadata)


def _read(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise ConfigurationError(f"The tokens' file {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"The tokens' file {path} holds characters beyond ASCII.") from error
    tokens = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    if not tokens:
        raise ConfigurationError(f"The tokens' file {path} holds no token; write one a line.")
    if any(len(token) < LEAST_CHARS or not token.isprintable() or " " in token for token in tokens):
        raise ConfigurationError(
            f"The tokens' file {path} holds a token of less than {LEAST_CHARS} characters, or with a space in it;"
            " `openssl rand -hex 32` makes a good one."
        )
    return tokens


def _digests(tokens: Sequence[str]) -> frozenset[bytes]:
    return frozenset(_digest(token) for token in tokens)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
