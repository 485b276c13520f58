"""What the tests of the embedder share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.embedder.calls import Service


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """An embedder that serves ansel (photographs 0 to 11) and okeefe (10 to 13)."""
    service = Service(tmp_path)
    service.precompute("ansel", range(12))
    service.precompute("okeefe", range(10, 14))
    async with service.serve():
        yield service
