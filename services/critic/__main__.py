"""Starts the critic: `python -m services.critic`."""

from __future__ import annotations

from services.core.rpc.server import main
from services.critic.component import CriticComponent
from services.critic.settings import CriticSettings

if __name__ == "__main__":
    main(CriticComponent, CriticSettings)
