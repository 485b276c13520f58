"""Starts the gateway: `python -m services.gateway`."""

from __future__ import annotations

import sys

from services.core.errors import ConfigurationError
from services.core.server import main
from services.gateway.component import Gateway
from services.gateway.settings import GatewaySettings

if __name__ == "__main__":
    try:
        settings = GatewaySettings.load()
    except ConfigurationError as error:
        print(f"mondrian: {error}", file=sys.stderr)
        sys.exit(2)
    main(Gateway(settings), settings)
