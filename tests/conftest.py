"""What every test shares."""

from __future__ import annotations

import os
import sys

import hypothesis
import pytest

# Two cores are shared by everything that runs: more threads would only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, and none that fails because the machine is busy.
hypothesis.settings.register_profile("mondrian", derandomize=True, deadline=None)
hypothesis.settings.load_profile("mondrian")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps the developer's own settings, and the developer's own releases, out of every test."""
    for name in list(os.environ):
        if name.startswith("MONDRIAN_"):
            monkeypatch.delenv(name)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
