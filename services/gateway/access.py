"""How the gateway shows itself to the backends: TLS and a bearer token, from files that may be renewed."""

from __future__ import annotations

import grpc
import grpc.aio

from services.core.files.changes import Watched
from services.core.rpc.channels import ChannelOptions
from services.core.rpc.tls import client_credentials
from services.core.rpc.tokens import Metadata, Tokens
from services.gateway.settings import GatewaySettings


class Access:
    """What every backend's channel and call carries.

    Raises:
        ConfigurationError: a file cannot be read.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._authority = settings.backend_tls_authority
        self._certificate = settings.backend_tls_certificate
        self._key = settings.backend_tls_key
        self._tokens = Tokens(settings.backend_tokens_file) if settings.backend_tokens_file else None
        files = (self._authority, self._certificate, self._key)
        self._files = Watched(path for path in files if path)
        self._credentials = self._read()

    def channel(self, target: str, options: ChannelOptions) -> grpc.aio.Channel:
        """Returns a new channel to `target`."""
        if self._credentials is None:
            return grpc.aio.insecure_channel(target, options)
        return grpc.aio.secure_channel(target, self._credentials, options)

    def metadata(self) -> Metadata:
        """Returns what a call carries besides the caller's own metadata."""
        return self._tokens.metadata() if self._tokens else ()

    def renewed(self) -> bool:
        """Returns whether the TLS files changed since the last look: new channels show the new ones.

        Raises:
            ConfigurationError: they changed and cannot be read; channels go on with the old ones.
        """
        if not self._files.changed():
            return False
        self._credentials = self._read()
        return True

    def _read(self) -> grpc.ChannelCredentials | None:
        return client_credentials(self._authority, self._certificate, self._key) if self._authority else None
