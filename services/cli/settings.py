"""Where the command line finds the gateway, and the folders that it prepares for the services."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.core.settings import CommonSettings, reachable, read_from


class ClientSettings(CommonSettings):
    """The gateway as a client sees it; the same variables tell the gateway where to listen."""

    model_config = read_from("MONDRIAN_GATEWAY_")

    host: str = "127.0.0.1"
    """The gateway's host; an address that means "every interface" is reached on this machine."""
    port: int = Field(default=50050, ge=1, le=65535)
    """The gateway's port."""
    tls_authority: Path | None = None
    """A PEM file with the authority that signed the gateway's certificate; set, it turns on TLS."""
    tls_client_certificate: Path | None = None
    """A PEM file with the certificate that is shown to a gateway that asks for one (mTLS)."""
    tls_client_key: Path | None = None
    """A PEM file with that certificate's private key."""
    tokens_file: Path | None = None
    """A file whose first line is the bearer token that is sent; the gateway accepts each of its lines."""

    @property
    def address(self) -> str:
        """host:port for a client."""
        return f"{reachable(self.host)}:{self.port}"
