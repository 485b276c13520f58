"""Every module that README or the Makefile runs starts as a process of its own, as they start it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import child_environment

ROOT = Path(__file__).resolve().parents[2]
RECIPES = "\n".join(
    (ROOT / name).read_text() for name in ("Makefile", "README.md", "deploy/mini/MODEL_CARD.md", "deploy/README.md")
)
# Those that take no arguments, or are run by tests of their own.
ELSEWHERE = {
    "pip",
    "pytest",
    "deploy.verify.check",
    "services.embedder",
    "services.critic",
    "services.scorer",
    "services.gateway",
}
MODULES = sorted(set(re.findall(r"-m ((?:services|deploy|tests)\.[a-z_.]*[a-z_]|pip|pytest)", RECIPES)) - ELSEWHERE)


def test_there_are_modules() -> None:
    assert {"services.critic.finetune", "deploy.mini.train_clip", "tests.bench.gateway"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_command_starts_and_says_how_it_is_used(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        env=child_environment({}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout.lower()
