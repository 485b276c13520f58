"""TLS for both ends of a call, from PEM files that may be renewed while the process runs."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc

from services.core.errors import ConfigurationError

log = logging.getLogger("mondrian.server")


def server_credentials(certificate: Path, key: Path, client_authority: Path | None) -> grpc.ServerCredentials:
    """Returns a server's credentials, whose files are read again at every handshake, so that renewed ones are used.

    With `client_authority` every client must show a certificate that it signed (mTLS). Files that cannot be read later
    leave those in use, and say so in the log.

    Raises:
        ConfigurationError: a file cannot be read.
    """

    def read() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(_pem(key), _pem(certificate))], root_certificates=_pem(client_authority) if client_authority else None
        )

    in_use = read()

    def renew() -> grpc.ServerCertificateConfiguration:
        nonlocal in_use
        try:
            in_use = read()
        except ConfigurationError as error:
            log.error("%s The certificate in use is kept.", error)
        return in_use

    return grpc.dynamic_ssl_server_credentials(
        in_use, renew, require_client_authentication=client_authority is not None
    )


def client_credentials(authority: Path, certificate: Path | None, key: Path | None) -> grpc.ChannelCredentials:
    """Returns a client's credentials: servers must be signed by `authority`; `certificate` and `key` are shown to them.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    return grpc.ssl_channel_credentials(
        _pem(authority),
        private_key=_pem(key) if key else None,
        certificate_chain=_pem(certificate) if certificate else None,
    )


def _pem(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"The TLS file {path} cannot be read ({error.strerror}).") from error
