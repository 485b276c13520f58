"""TLS for both ends of a call, from PEM files that may be renewed while the process runs."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc

from services.core.errors import ConfigurationError

log = logging.getLogger("mondrian.server")


def server_credentials(certificate: Path, key: Path, client_authority: Path | None) -> grpc.ServerCredentials:
    """Returns a server's credentials, whose files are read again at every handshake, so that renewed ones are used.

    With `client_authority` every client must show a certificate that it signed (mTLS). Where renewed files cannot be
    read, those in use stay, and the log says so.

    Raises:
        ConfigurationError: a file cannot be read, or is not what it should be.
    """

    def read() -> grpc.ServerCertificateConfiguration:
        pair = _pem(key), _pem(certificate)
        authority = _pem(client_authority) if client_authority else None
        _check(client_authority, certificate, key)
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authority)

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
        ConfigurationError: a file cannot be read, or is not what it should be.
    """
    credentials = grpc.ssl_channel_credentials(
        _pem(authority),
        private_key=_pem(key) if key else None,
        certificate_chain=_pem(certificate) if certificate else None,
    )
    _check(authority, certificate, key)
    return credentials


def _check(authority: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Raises for files with which gRPC would fail to listen or connect without naming them: half written, say, or a key
    of another certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority is not None:
        try:
            context.load_verify_locations(authority)
        except ssl.SSLError as error:
            raise ConfigurationError(f"The TLS file {authority} holds no certificate in PEM.") from error
    if certificate is not None and key is not None:
        try:
            # Without a password: nobody is there to be asked for one.
            context.load_cert_chain(certificate, key, password="")
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"The TLS files {certificate} and {key} are not a certificate and its own key, in PEM and unencrypted."
            ) from error


def _pem(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"The TLS file {path} cannot be read ({error.strerror}).") from error
