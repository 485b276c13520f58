"""Where the command line finds the gateway, and the folders that it prepares for the services."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.core.settings import CommonSettings, service_config


class ClientSettings(CommonSettings):
    """The gateway as a client sees it; the same variables tell the gateway where to listen."""

    model_config = service_config("MONDRIAN_GATEWAY_")

    host: str = "127.0.0.1"
    """The gateway's host; an address that means "every interface" is reached on this machine."""
    port: int = Field(default=50050, ge=1, le=65535)
    """The gateway's port."""
    tls_authority: Path | None = None
    """A PEM file with the authority that signed the gateway's certificate; set, it turns on TLS."""

    @property
    def address(self) -> str:
        """host:port for a client."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}.get(self.host, self.host)
        return f"{host}:{self.port}"
