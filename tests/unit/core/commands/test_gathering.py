"""Gathering photographs for precompute: what it leaves behind when it fails."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.core.advisors import load_advisor
from services.core.commands.gathering import gather
from services.core.commands.progress import progress
from services.core.errors import ConfigurationError
from services.core.images.reading import DEFAULT_LIMITS
from tests.pictures import advisor_folder


def test_when_it_has_failed_no_thread_looks_at_photographs_any_more(tmp_path: Path) -> None:
    """What they look into is closed next: a database that is read while it is closed ends the process."""

    def full(waiting: Mapping[str, bytes]) -> None:
        raise ConfigurationError("The disk is full.")

    folder = load_advisor(advisor_folder(tmp_path / "ansel", range(8)), None)
    before = set(threading.enumerate())
    with progress("Looking", 8, quiet=True) as shown, pytest.raises(ConfigurationError) as raised:
        gather(folder, lambda identity: False, bytes, full, limits=DEFAULT_LIMITS, batch=1, threads=2, shown=shown)
    # The error is held meanwhile, and with it all that it came through.
    assert raised.value.__traceback__ is not None
    assert {thread for thread in threading.enumerate() if thread.name.startswith("decode")} <= before
