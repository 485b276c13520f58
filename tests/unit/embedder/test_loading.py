"""What holds for the process that loads an encoder."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.processes import child_environment

PROGRAM = """
import os, sys
from services.embedder.component import EmbedderComponent
from services.embedder.settings import EmbedderSettings
assert "torch" not in sys.modules
from services.embedder.loading import load
load(EmbedderSettings.load(device="cpu", torch_threads=2))
print(os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("before", "after"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_torchs_threads_are_told_how_to_wait_before_it_is_imported(before: dict[str, str], after: str) -> None:
    environment = {name: value for name, value in child_environment(before).items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**environment, **before}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == after
