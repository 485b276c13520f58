"""Starts the gateway: `python -m services.gateway`."""

from __future__ import annotations

from services.core.rpc.server import main
from services.gateway.component import GatewayComponent
from services.gateway.settings import GatewaySettings

if __name__ == "__main__":
    main(GatewayComponent, GatewaySettings)
