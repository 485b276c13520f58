"""The system that most tests of the gateway run against."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.system import System, system


@pytest.fixture
async def over_fakes() -> AsyncIterator[System]:
    """A gateway over three fake services that work."""
    async with system() as running:
        yield running
