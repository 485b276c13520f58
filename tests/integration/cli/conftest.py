"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.answers import picture
from tests.integration.cli.stage import Stage, staged


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged() as running:
        yield running


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "ridge.jpg"
    path.write_bytes(picture())
    return path
