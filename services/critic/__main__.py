"""Starts the critic: `python -m services.critic`."""

from __future__ import annotations

import sys

from services.core.errors import ConfigurationError
from services.core.server import main
from services.critic.component import CriticComponent
from services.critic.settings import CriticSettings

if __name__ == "__main__":
    try:
        settings = CriticSettings.load()
    except ConfigurationError as error:
        print(f"mondrian: {error}", file=sys.stderr)
        sys.exit(2)
    main(CriticComponent(settings), settings)
